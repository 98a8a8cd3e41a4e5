"""What tf.Transform does to the raw columns."""
