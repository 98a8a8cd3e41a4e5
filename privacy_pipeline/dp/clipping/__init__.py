"""Per-example clipping without per-example gradients: norms from activations and the gradients of pre-activations."""
