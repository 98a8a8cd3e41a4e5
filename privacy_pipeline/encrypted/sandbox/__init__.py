"""Processes of the parties: their environment, without a network of their own."""
