"""A config as a TFX pipeline."""
