"""Registration of a dataset with the ledger."""
