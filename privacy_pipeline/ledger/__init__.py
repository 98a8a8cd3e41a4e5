"""The budget ledger: what each registered dataset may spend over all runs, and what it has spent."""
