"""ExampleGen whose examples name the data that they are of."""
