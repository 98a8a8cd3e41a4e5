"""How the ledger is stored: database, signed journal, keys, and the newest record that a host saw."""
