"""Clients: who holds which examples, on disk and in memory."""
