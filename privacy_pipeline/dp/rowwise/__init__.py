"""Proves that a graph keeps the rows of a batch apart, by a rule for each op."""
