"""Resolver strategy: the last blessed model of the same privacy class."""
