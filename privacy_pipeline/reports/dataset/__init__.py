"""The report on one dataset over all its runs."""
