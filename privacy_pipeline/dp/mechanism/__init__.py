"""How a unit's influence is bounded, and how batches are sampled, as values."""
