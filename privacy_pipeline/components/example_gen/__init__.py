"""ExampleGen whose examples say which data they are of."""
