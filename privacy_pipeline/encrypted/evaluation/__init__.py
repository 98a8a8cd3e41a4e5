"""Plain against private predictions on the eval split."""
