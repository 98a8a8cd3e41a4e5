"""TensorFlow graphs of a private step: tracing, state, and the key that all randomness follows."""
