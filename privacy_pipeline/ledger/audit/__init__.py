"""Reading the ledger: verification, history, receipts, exports."""
