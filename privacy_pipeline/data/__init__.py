"""Datasets and their provenance, schema, spans and splits."""
