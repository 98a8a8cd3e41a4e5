"""Copies of a ledger: backup, restore, and the move to another database."""
