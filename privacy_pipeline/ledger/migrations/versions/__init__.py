"""One module for each format that the ledger was brought to."""
