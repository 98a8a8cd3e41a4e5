"""Noise and random layers, as functions of the run's key and the step."""
