"""DpEvaluator: noisy confusion counts in place of exact metrics, charged to the eval split's units."""
