"""Privacy-preserving machine-learning pipelines on TFX."""
