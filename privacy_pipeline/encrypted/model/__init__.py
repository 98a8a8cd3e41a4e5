"""A Keras model as a network for the parties, and the proof of its error."""
