"""Experiments: one YAML file, a grid of settings and seeds, runs that are recorded, charged and resumed."""
