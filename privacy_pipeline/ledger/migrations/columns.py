"""What a migration does to tables of any format: missing columns, and numbers that go on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from privacy_pipeline.ledger.storage import tables


def add_missing(*which: sa.Table) -> None:
    """Add the columns that tables lack, so that they can be read as they are in this format.

    Args:
        which: the tables; by default all that got columns since format 3.
    """
    inspector = sa.inspect(op.get_bind())
    for table in which or (tables.budgets, tables.registrations):
        present = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in present:
                added = sa.Column(
                    column.name, column.type, nullable=column.nullable, server_default=column.server_default
                )
                op.add_column(table.name, added)


def number_on(connection: sa.Connection, *names: str) -> None:
    """Let the ids of tables go on after the last one; PostgreSQL does not see ids that are given."""
    if connection.dialect.name != "postgresql":
        return
    for name in names:
        last = f"(SELECT max(id) FROM {name})"
        statement = f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), coalesce({last}, 1), {last} IS NOT NULL)"
        connection.exec_driver_sql(statement)
