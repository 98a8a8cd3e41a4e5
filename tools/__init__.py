"""Scripts that check this repository."""
