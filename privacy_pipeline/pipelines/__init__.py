"""From a config to a TFX pipeline, and the runner that executes it."""
