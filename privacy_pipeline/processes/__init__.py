"""Processes of the framework: how they start and end, and what is installed where they run."""
