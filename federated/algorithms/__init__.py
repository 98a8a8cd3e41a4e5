"""Federated algorithms: one module each, and one line each in `federated.algorithms.registry`."""
