"""Cross-silo training in which each silo protects its own records with the DP-SGD engine before anything leaves it."""
