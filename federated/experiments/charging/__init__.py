"""What a run of an experiment costs, and its record."""
