"""Format 3: a signed journal; charges once for equal entries; totals with each budget.

What an older ledger holds becomes journal records of kind `imported`: it is protected from here on, not before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import context, op

from privacy_pipeline.ledger.charging import charges, entries
from privacy_pipeline.ledger.migrations.columns import add_missing, number_on
from privacy_pipeline.ledger.state.budgets import set_totals
from privacy_pipeline.ledger.state.totals import Totals
from privacy_pipeline.ledger.storage import journal, tables
from privacy_pipeline.ledger.storage.keys import SigningKey

revision = "3"
down_revision = "2"
_PURPOSE = "train"
_UNKNOWN = "unknown"


def upgrade() -> None:
    """Move budgets and entries to their new tables, and begin the journal with them."""
    connection = op.get_bind()
    writer = _begin(connection)
    for row in _all(connection, "SELECT * FROM registrations ORDER BY id"):
        kept = {name: value for name, value in row.items() if name != "id"}
        writer.append(journal.IMPORTED, {"table": "registrations", "row": kept})
    budgets = {}
    for row in _all(connection, "SELECT * FROM old_budgets ORDER BY id"):
        budgets[row["id"]] = budget = {**row, "span_key": "", "policy": None}
        connection.execute(tables.budgets.insert().values(**budget, totals=Totals().to_json()))
        writer.append(journal.IMPORTED, {"table": "budgets", "row": budget})
    totals = {key: Totals() for key in budgets}
    known = charges.Charges(connection)
    for row in _all(connection, "SELECT * FROM old_entries ORDER BY id"):
        new = _entry(connection, row)
        connection.execute(tables.entries.insert().values(**new))
        writer.append(journal.IMPORTED, {"table": "entries", "row": new})
        changed = totals[new["budget_id"]].moving(None, new["state"], overrun=new["overrun"])
        if new["state"] != "expired":
            cost = known.sum(charges.counted_digest(new), budgets[new["budget_id"]]["delta"])
            changed = changed.adding(_PURPOSE, cost)
        totals[new["budget_id"]] = changed
    for key, total in totals.items():
        set_totals(connection, key, total)
    writer.seal()
    number_on(connection, "budgets", "entries")
    op.drop_table("old_entries")
    op.drop_table("old_budgets")


def _begin(connection: sa.Connection) -> journal.Writer:
    key: SigningKey = context.config.attributes["key"]
    add_missing(tables.registrations)  # the head signs registrations as they are now
    op.drop_index("ix_entries_budget_id", "entries")
    op.rename_table("entries", "old_entries")
    op.rename_table("budgets", "old_budgets")
    new = (tables.journal, tables.budgets, tables.charges, tables.entries)
    tables.metadata.create_all(connection, tables=list(new), checkfirst=False)
    return journal.begin(connection, key)


def _all(connection: sa.Connection, statement: str) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(sa.text(statement)).mappings()]


def _entry(connection: sa.Connection, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of format 2 as one of format 3; the charge keeps the stored vector, which counts at least
    what ran.
    """
    content = {name: row[name] for name in charges.CONTENT}
    overrun = bool(row["overrun"])
    planned = _put(connection, content)
    executed = None
    if row["executed_event"] is not None:
        executed = _put(connection, {**content, "event": row["executed_event"]})
    same = {name: row[name] for name in entries.FIXED if name not in ("purpose", "principal", "token", "planned")}
    times = {name: row[name] for name in ("reserved_at", "started_at", "committed_at", "expired_at")}
    return {
        **same,
        **times,
        "purpose": _PURPOSE,
        "principal": _UNKNOWN,
        "state": row["state"],
        "token": entries.token_hash(row["token"]),
        "planned": planned,
        "executed": executed,
        "overrun": overrun,
        "commit_seq": None,
    }


def _put(connection: sa.Connection, content: Mapping[str, Any]) -> str:
    return charges.put(connection, {"digest": charges.content_digest(content), **content})
