"""Datasets that the framework can write, with their provenance."""
