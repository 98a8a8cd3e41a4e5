"""Examples on disk, and the batches that a plan draws from them."""
