"""Migrations of the ledger, by alembic; one file a format in `versions`."""
