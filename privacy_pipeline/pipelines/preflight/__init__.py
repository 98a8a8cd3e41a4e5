"""All checks before a run starts."""
