"""Metrics that TensorFlow Model Analysis lacks, for TFX's Evaluator."""
