"""Federated simulation on TensorFlow Federated."""
