"""Checks of a model, and of a run's own noise, before any data is read."""
