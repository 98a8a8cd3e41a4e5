"""Trainer backends behind one protocol and one registry."""
