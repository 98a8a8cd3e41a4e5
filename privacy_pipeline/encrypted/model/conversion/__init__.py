"""Make the parties' network from a Keras model: one rule for each kind of layer, then the folding."""
