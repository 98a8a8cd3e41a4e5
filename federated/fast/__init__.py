"""Many clients in one TensorFlow graph, without a process boundary."""
