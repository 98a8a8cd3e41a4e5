"""Stored charges: plan, event and cost, once for all entries that are alike, under the digest of their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from privacy_pipeline.accounting.renyi import ORDERS, ORDERS_VERSION
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.ledger.state.entries import Cost, Entry, Price, State, budget_key
from privacy_pipeline.ledger.state.totals import Sum
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.ledger.storage.journal import VERIFY
from privacy_pipeline.spans import span_of

if TYPE_CHECKING:
    from pydantic import JsonValue

    from privacy_pipeline.accounting.plan import ChargedPlan

CONTENT = ("plan", "event", "orders_version", "rdp", "total_variation")


@dataclass(frozen=True, kw_only=True)
class StoredCharge:
    """A charge as it was read.

    Attributes:
        plan: parameters of the plan.
        event: the event as JSON: planned, or executed.
        text: the event's canonical text.
        charge: what is added up.
    """

    plan: Mapping[str, Any]
    event: JsonValue
    text: str
    charge: Cost


def content_digest(row: Mapping[Any, Any]) -> str:
    """Return the SHA-256 of a charge's content, hexadecimal; floats as their shortest decimals."""
    text = json.dumps([row[name] for name in CONTENT], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def row_of(plan: str, cost: Price) -> dict[str, Any]:
    """Return a charge as columns of its table.

    Args:
        plan: the plan's parameters as JSON text.
        cost: what it costs.
    """
    row = {
        "plan": plan,
        "event": cost.event,
        "orders_version": ORDERS_VERSION,
        "rdp": json.dumps(list(cost.values)),
        "total_variation": cost.distance,
    }
    return {"digest": content_digest(row), **row}


def plan_text(plan: ChargedPlan) -> str:
    """Return a plan's parameters as text."""
    return json.dumps(plan.parameters(), sort_keys=True)


# Built once: every reservation asks for it while it holds the lock.
_KNOWN = sa.select(schema.charges.c.digest).where(schema.charges.c.digest == sa.bindparam("wanted"))


def put(connection: sa.Connection, row: Mapping[str, Any]) -> str:
    """Store a charge unless it is there; return its digest."""
    if connection.scalar(_KNOWN, {"wanted": row["digest"]}) is None:
        connection.execute(schema.charges.insert(), dict(row))
    return str(row["digest"])


def stored(row: Mapping[Any, Any]) -> StoredCharge:
    """Return a charge's row as a value.

    Raises:
        LedgerError: it is damaged, or its vector was stored for other orders.
    """
    damaged = schema.LedgerError(f"the stored charge {row['digest'][:12]}... is damaged", fix=VERIFY)
    if content_digest(row) != row["digest"]:
        raise damaged
    try:
        plan, event, vector = (json_value(row[name]) for name in ("plan", "event", "rdp"))
        values, distance = tuple(float(value) for value in vector), float(row["total_variation"])
    except (ValueError, TypeError) as error:
        raise damaged from error
    if row["orders_version"] != ORDERS_VERSION or len(values) != len(ORDERS):
        raise schema.LedgerError("the ledger holds an RDP vector that this version cannot add")
    if not all(value >= 0 for value in (*values, distance)):
        raise damaged
    return StoredCharge(plan=plan, event=event, text=row["event"], charge=Cost(values=values, distance=distance))


class Charges:
    """The stored charges within one transaction; each is read and priced once."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._known: dict[str, StoredCharge] = {}
        self._epsilons: dict[tuple[str, float], float] = {}

    def get(self, digest: str) -> StoredCharge:
        """Return a charge.

        Raises:
            LedgerError: it is missing or damaged.
        """
        if digest not in self._known:
            table = schema.charges
            row = self._connection.execute(sa.select(table).where(table.c.digest == digest)).mappings().first()
            if row is None:
                raise schema.LedgerError(f"the ledger lost the charge {digest[:12]}...", fix=VERIFY)
            self._known[digest] = stored(row)
        return self._known[digest]

    def epsilon(self, digest: str, delta: float) -> float:
        """Return the epsilon of a charge alone, by RDP."""
        key = (digest, delta)
        if key not in self._epsilons:
            self._epsilons[key] = self.get(digest).charge.epsilon(delta)
        return self._epsilons[key]

    def sum(self, digest: str, delta: float) -> Sum:
        """Return a charge as what a budget's totals add, at the delta of its cap."""
        charge = self.get(digest).charge
        return Sum.of(charge.values, charge.distance, self.epsilon(digest, delta))

    def entry(self, row: Mapping[Any, Any], budget: Mapping[Any, Any]) -> Entry:
        """Return an entry's row as a value."""
        planned = self.get(row["planned"])
        return Entry(
            id=row["id"],
            budget=budget_key(budget),
            dataset=budget["dataset"],
            span=span_of(row["span_key"]),
            split=budget["split"],
            run_id=row["run_id"],
            node=row["node"],
            attempt=row["attempt"],
            purpose=row["purpose"],
            principal=row["principal"],
            state=State(row["state"]),
            plan=planned.plan,
            event=planned.event,
            executed_event=self.get(row["executed"]).event if row["executed"] else None,
            overrun=bool(row["overrun"]),
            epsilon=self.epsilon(counted_digest(row), budget["delta"]),
            reserved_at=row["reserved_at"],
            started_at=row["started_at"],
            committed_at=row["committed_at"],
            expired_at=row["expired_at"],
        )


def counted_digest(row: Mapping[Any, Any]) -> str:
    """Return the digest of the charge that counts for an entry: what ran once that is known, else what was planned."""
    return str(row["executed"] or row["planned"])


def find(connection: sa.Connection, entry_id: int) -> Entry | None:
    """Return one entry; see `Ledger.entry`."""
    table, budgets = schema.entries, schema.budgets
    row = connection.execute(sa.select(table).where(table.c.id == entry_id)).mappings().first()
    if row is None:
        return None
    budget = connection.execute(sa.select(budgets).where(budgets.c.id == row["budget_id"])).mappings().one()
    return Charges(connection).entry(row, budget)


def newest(connection: sa.Connection, *, dataset: str | None, limit: int | None) -> list[Entry]:
    """Return entries, the newest first; see `Ledger.history`."""
    table, budgets = schema.entries, schema.budgets
    query = sa.select(table).order_by(table.c.id.desc()).limit(limit)
    known = {row["id"]: row for row in connection.execute(sa.select(budgets)).mappings()}
    if dataset is not None:
        query = query.where(table.c.budget_id.in_([key for key, row in known.items() if row["dataset"] == dataset]))
    charges, rows = Charges(connection), connection.execute(query).mappings().all()
    return [charges.entry(row, known[row["budget_id"]]) for row in rows]
