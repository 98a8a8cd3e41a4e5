"""Rounds on TensorFlow Federated, whose worker process never outlives the command."""
