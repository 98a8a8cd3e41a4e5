"""What a private training takes from Keras: losses of examples, the step of an optimizer, arguments of `fit`."""
