"""Reads ledgers of formats 3 and 4 as they are: a reader has no key, so it cannot bring them to this format.

Within a reading transaction temporary views stand in for the tables that got columns since, or that there were not,
under the same names; both databases look there first. A write brings the ledger to this format, and the views are gone.
"""

from __future__ import annotations

import sqlalchemy as sa

READABLE = ("3", "4")
_SINCE = {
    "budgets": "CAST(NULL AS DOUBLE PRECISION) AS ceiling, 1 AS delta_factor",
    "registrations": "CAST(NULL AS TEXT) AS details",
}
_NEW = {  # tables that there were not: empty
    "unit_digests": "CAST(NULL AS TEXT) AS dataset, CAST(NULL AS TEXT) AS span_key, CAST(NULL AS TEXT) AS kind, "
    "CAST(NULL AS TEXT) AS split, 0 AS part, NULL AS data",
}


def show(connection: sa.Connection) -> None:
    """Makes the views for this connection, in a reading transaction."""
    sqlite = connection.dialect.name == "sqlite"
    home = "main" if sqlite else str(connection.exec_driver_sql("SELECT current_schema()").scalar_one())
    create = "CREATE TEMP VIEW IF NOT EXISTS" if sqlite else "CREATE OR REPLACE TEMP VIEW"
    quoted = connection.dialect.identifier_preparer.quote(home)
    for table, columns in _SINCE.items():
        connection.exec_driver_sql(f"{create} {table} AS SELECT *, {columns} FROM {quoted}.{table}")
    for table, columns in _NEW.items():
        connection.exec_driver_sql(f"{create} {table} AS SELECT {columns} WHERE 1 = 0")


def hide(connection: sa.Connection) -> None:
    """Drops the views that a pooled connection still has, so that the tables are seen."""
    home = "temp" if connection.dialect.name == "sqlite" else "pg_temp"
    for table in (*_SINCE, *_NEW):
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {home}.{table}")
