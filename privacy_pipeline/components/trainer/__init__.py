"""PrivateTrainer: trains with any backend and charges the ledger."""
