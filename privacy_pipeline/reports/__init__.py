"""The privacy record of a run, its summary, and what is rendered from them. Imports no TensorFlow."""
