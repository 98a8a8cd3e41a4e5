"""The privacy record of a run, and its summary."""
