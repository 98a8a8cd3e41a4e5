"""Ledgers of formats 3 and 4: what they lack, and how they are read as they are, since a reader has no key to migrate.

Within a reading transaction temporary tables and views stand in, under the same names, for the tables that got columns
since or that there were not; both databases look there first. They hold what the migration would record
(`earlier_rules`, `OLDER`): what is read claims no more before it than after. A write brings the ledger to this format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from privacy_pipeline.ledger.storage import tables

READABLE = ("3", "4")
# Columns that came with format 5, and what they hold in rows that were written before.
SINCE_5: Mapping[str, Mapping[str, Any]] = {
    tables.budgets.name: {"ceiling": None, "delta_factor": 1},
    tables.registrations.name: {"details": None},
}
OLDER = '{"older": true}'  # details of a registration that a migration found (`registration.details_of`)
Rules = Callable[[sa.Connection], dict[int, dict[str, Any]]]
_RULES: WeakKeyDictionary[sa.Engine, tuple[int, dict[int, dict[str, Any]]]] = WeakKeyDictionary()


def columns_of_4(table: sa.Table) -> list[sa.Column[Any]]:
    """Return the columns that a table had in format 4."""
    return [column for column in table.columns if column.name not in SINCE_5.get(table.name, {})]


def show(connection: sa.Connection, *, as_stored: bool, rules: Rules) -> None:
    """Let this connection see the tables of this format, in a reading transaction.

    Args:
        connection: of a transaction that has written nothing.
        as_stored: add nothing that a migration would record, for `verify`.
        rules: what a migration would record of budgets, read from the journal.

    Raises:
        LedgerError: the journal is damaged, so the rules cannot be read.
    """
    sqlite = connection.dialect.name == "sqlite"
    home = "main" if sqlite else str(connection.exec_driver_sql("SELECT current_schema()").scalar_one())
    quoted = connection.dialect.identifier_preparer.quote(home)
    for name, table in (("TABLE", tables.budgets), ("VIEW", tables.registrations)):
        holds = SINCE_5[table.name] if as_stored or table is tables.budgets else {"details": OLDER}
        added = ", ".join(_held(connection, table.c[column], held) for column, held in holds.items())
        connection.exec_driver_sql(f"CREATE TEMP {name} {table} AS SELECT *, {added} FROM {quoted}.{table}")
    nothing = ", ".join(_held(connection, column, None) for column in tables.unit_digests.columns)
    connection.exec_driver_sql(f"CREATE TEMP VIEW {tables.unit_digests} AS SELECT {nothing} WHERE 1 = 0")
    for number, changes in ({} if as_stored else _known(connection, rules)).items():
        connection.execute(tables.budgets.update().where(tables.budgets.c.id == number).values(**changes))


def _held(connection: sa.Connection, column: sa.Column[Any], held: int | str | None) -> str:
    kind = column.type.compile(dialect=connection.dialect)
    value = "NULL" if held is None else f"'{held}'" if isinstance(held, str) else str(held)
    return f"CAST({value} AS {kind}) AS {column.name}"


def _known(connection: sa.Connection, rules: Rules) -> dict[int, dict[str, Any]]:
    """Return the rules of budgets; read from the whole journal once, and again when there is more of it."""
    last = connection.scalar(sa.select(sa.func.max(tables.journal.c.seq))) or 0
    known = _RULES.get(connection.engine)
    if known is None or known[0] != last:
        _RULES[connection.engine] = known = (last, rules(connection))
    return known[1]


def hide(connection: sa.Connection) -> None:
    """Drop what a pooled connection still has, so that the tables are seen."""
    home = "temp" if connection.dialect.name == "sqlite" else "pg_temp"
    for name, table in (("TABLE", tables.budgets), ("VIEW", tables.registrations), ("VIEW", tables.unit_digests)):
        connection.exec_driver_sql(f"DROP {name} IF EXISTS {home}.{table}")
