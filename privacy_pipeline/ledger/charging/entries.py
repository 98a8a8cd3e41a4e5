"""How an entry moves: its row, the budget's totals and the journal change together, in one write transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from privacy_pipeline.ledger.charging.charges import Charges, counted_digest
from privacy_pipeline.ledger.state.budgets import set_totals, totals_of
from privacy_pipeline.ledger.state.entries import Cost, State
from privacy_pipeline.ledger.state.totals import Sum
from privacy_pipeline.ledger.storage import journal as kinds
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.ledger.storage.journal import Receipt, Writer, now

# What a reservation fixes; the rest of a row is where the entry is in its life.
FIXED = (
    "id",
    "budget_id",
    "span_key",
    "data_digest",
    "run_id",
    "node",
    "plan_key",
    "attempt",
    "purpose",
    "principal",
    "token",
    "planned",
)
_NEW = {
    "state": State.RESERVED.value,
    "executed": None,
    "overrun": False,
    "started_at": None,
    "committed_at": None,
    "expired_at": None,
    "commit_seq": None,
}


def token_hash(token: str) -> str:
    """Return what the ledger keeps of a holder's secret."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_row(fixed: Mapping[str, Any], *, at: str) -> dict[str, Any]:
    """Return the row of an entry that was just reserved."""
    return {**_NEW, **fixed, "reserved_at": at}


def add(
    writer: Writer,
    budget: Mapping[Any, Any],
    fixed: Mapping[str, Any],
    *,
    cost: Cost,
    order: float,
    ceiling: float | None = None,
) -> int:
    """Return a new reservation.

    Args:
        writer: the journal.
        budget: the budget's row.
        fixed: the columns `FIXED` without the id.
        cost: the charge that `fixed` names as planned.
        order: the budget's Renyi order from here on.
        ceiling: the epsilon at which it prices failures from here on.

    Returns:
        The entry's id.
    """
    connection, at, table = writer.connection, now(), schema.entries
    inserted = connection.execute(table.insert().returning(table.c.id), new_row(fixed, at=at))
    entry_id = int(inserted.scalar_one())
    added = Sum.of(cost.values, cost.distance, cost.epsilon(budget["delta"]))
    totals = totals_of(budget).adding(fixed["purpose"], added).moving(None, State.RESERVED.value)
    set_totals(connection, budget["id"], totals, filter_order=order, ceiling=ceiling)
    writer.append(kinds.RESERVE, {"entry": {**fixed, "id": entry_id}, **_rule(order, ceiling)}, at=at)
    return entry_id


def _rule(order: float, ceiling: float | None) -> dict[str, float]:
    """Return what a record holds of the budget's rule; the ceiling only where there is one."""
    return {"order": order} | ({} if ceiling is None else {"ceiling": ceiling})


def take_over(
    writer: Writer,
    budget: Mapping[Any, Any],
    entry_id: int,
    *,
    token: str,
    order: float,
    ceiling: float | None = None,
) -> None:
    """Give a reservation that was never started to a new holder.

    Args:
        writer: the journal.
        budget: the budget's row.
        entry_id: the entry.
        token: hash of the new holder's secret.
        order: the budget's Renyi order from here on.
        ceiling: the epsilon at which it prices failures from here on.
    """
    at = now()
    _change(writer, entry_id, token=token, reserved_at=at)
    set_totals(writer.connection, budget["id"], totals_of(budget), filter_order=order, ceiling=ceiling)
    writer.append(kinds.TAKEOVER, {"entry": entry_id, "token": token, **_rule(order, ceiling)}, at=at)


def start(writer: Writer, row: Mapping[Any, Any]) -> None:
    """Start a reservation."""
    at, budget = now(), _budget(writer, row)
    _change(writer, row["id"], state=State.STARTED.value, started_at=at)
    totals = totals_of(budget).moving(row["state"], State.STARTED.value)
    set_totals(writer.connection, budget["id"], totals)
    writer.append(kinds.START, {"entry": row["id"]}, at=at)


def commit(writer: Writer, row: Mapping[Any, Any], executed: str, *, overrun: bool) -> Receipt:
    """Commit a started entry.

    Args:
        writer: the journal.
        row: the entry.
        executed: digest of the charge that counts from here on.
        overrun: whether it is more than was planned.
    """
    connection, at, budget = writer.connection, now(), _budget(writer, row)
    charges = Charges(connection)
    totals = totals_of(budget)
    if executed != row["planned"]:
        more = charges.sum(executed, budget["delta"]) - charges.sum(row["planned"], budget["delta"])
        totals = totals.adding(row["purpose"], more)
    totals = totals.moving(row["state"], State.COMMITTED.value, overrun=overrun)
    set_totals(connection, budget["id"], totals)
    receipt = writer.append(kinds.COMMIT, {"entry": row["id"], "executed": executed, "overrun": overrun}, at=at)
    done = {"state": State.COMMITTED.value, "committed_at": at, "executed": executed, "overrun": overrun}
    _change(writer, row["id"], **done, commit_seq=receipt.seq)
    return receipt


def expire(writer: Writer, row: Mapping[Any, Any]) -> None:
    """Give a reservation back."""
    connection, at, budget = writer.connection, now(), _budget(writer, row)
    cost = Charges(connection).sum(counted_digest(row), budget["delta"])
    totals = totals_of(budget).adding(row["purpose"], cost.times(-1)).moving(row["state"], State.EXPIRED.value)
    set_totals(connection, budget["id"], totals)
    _change(writer, row["id"], state=State.EXPIRED.value, expired_at=at)
    writer.append(kinds.EXPIRE, {"entry": row["id"]}, at=at)


def _budget(writer: Writer, row: Mapping[Any, Any]) -> sa.RowMapping:
    table = schema.budgets
    return writer.connection.execute(sa.select(table).where(table.c.id == row["budget_id"])).mappings().one()


def _change(writer: Writer, entry_id: int, **changes: Any) -> None:
    table = schema.entries
    writer.connection.execute(table.update().where(table.c.id == entry_id).values(**changes))
