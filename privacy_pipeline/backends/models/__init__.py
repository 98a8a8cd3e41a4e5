"""The functions that shape a model: found, hashed, imported from what was hashed."""
