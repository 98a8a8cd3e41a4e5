"""The commands of `privacy-pipeline budget`."""
