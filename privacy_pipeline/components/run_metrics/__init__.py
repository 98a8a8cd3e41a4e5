"""RunMetrics: utility and privacy of a run side by side in ML Metadata."""
