"""Attacks that show a lower bound on epsilon, or a risk."""
