"""Entries of the ledger: what a run costs, how that is stored, and what the ledger tells about it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from privacy_pipeline.accounting import ledger_schema as schema
from privacy_pipeline.accounting import renyi_filter, truncation
from privacy_pipeline.accounting.accountants import ORDERS, ORDERS_VERSION, rdp_vector
from privacy_pipeline.accounting.plan import Relation

if TYPE_CHECKING:
    from dp_accounting import DpEvent
    from pydantic import JsonValue

    from privacy_pipeline.accounting.plan import MechanismPlan


class State(str, Enum):
    """Life of an entry. All but `expired` count in full; `started` never expires."""

    RESERVED = "reserved"
    STARTED = "started"
    COMMITTED = "committed"
    EXPIRED = "expired"


COUNTED = (State.RESERVED.value, State.STARTED.value, State.COMMITTED.value)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One charge to a budget.

    Attributes:
        id: number of the entry; entries are numbered in the order of their reservation.
        budget: key of the budget.
        dataset: dataset that was charged.
        span: span that was read.
        split: split that was read.
        run_id: run that asked.
        node: node of the run that asked.
        attempt: counts the charges of one run, node and plan.
        state: where the entry is in its life.
        plan: parameters of the reserved plan.
        event: the planned DpEvent as JSON.
        executed_event: the executed DpEvent as JSON, once committed.
        overrun: whether more was executed than was planned.
        epsilon: cost of this entry alone, by RDP at the cap's delta.
        reserved_at, started_at, committed_at, expired_at: UTC, ISO 8601.
    """

    id: int
    budget: str
    dataset: str
    span: int | None
    split: str
    run_id: str
    node: str
    attempt: int
    state: State
    plan: Mapping[str, Any]
    event: JsonValue
    executed_event: JsonValue
    overrun: bool
    epsilon: float
    reserved_at: str
    started_at: str | None
    committed_at: str | None
    expired_at: str | None


@dataclass(frozen=True, kw_only=True)
class BudgetStatus:
    """One budget at a glance; every epsilon is by RDP at the cap's delta.

    Attributes:
        budget: key of the budget.
        dataset: dataset, all spans together.
        split: split that the budget covers.
        unit: privacy unit.
        relation: neighbouring relation.
        cap_epsilon: epsilon that all runs together may reach.
        cap_delta: delta of the cap.
        spent_epsilon: epsilon of all counted entries together.
        remaining_epsilon: the cap less what is spent.
        simple_epsilon: sum of the entries' own epsilons; what adding without composition would say.
        entries: number of entries in each state.
        overruns: entries that executed more than they planned.
        filter_order: Renyi order at which the cap is enforced, once there was a run.
        cap_changes: how often the cap was changed; each change may add the cap's delta once.
    """

    budget: str
    dataset: str
    split: str
    unit: str
    relation: Relation
    cap_epsilon: float
    cap_delta: float
    spent_epsilon: float
    remaining_epsilon: float
    simple_epsilon: float
    entries: Mapping[State, int]
    overruns: int
    filter_order: float | None
    cap_changes: int


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a plan would do to a budget; nothing was reserved.

    Attributes:
        epsilon_run: cost of the run alone, by RDP at the cap's delta.
        epsilon_before: spent so far.
        epsilon_after: spent with the run.
        cap: the cap's epsilon.
        delta: the cap's delta.
        fits: whether a reservation would be granted now.
        runs_that_fit: how many such runs would be granted, one after the other.
    """

    epsilon_run: float
    epsilon_before: float
    epsilon_after: float
    cap: float
    delta: float
    fits: bool
    runs_that_fit: int


@dataclass(frozen=True, kw_only=True)
class Charge:
    """What the ledger adds up.

    Attributes:
        values: Renyi vector, for truncated sampling of the event without truncation.
        distance: total variation distance that truncation adds (see `truncation`).
    """

    values: tuple[float, ...]
    distance: float = 0.0

    def epsilon(self, delta: float) -> float:
        """Epsilon at delta, by RDP at its best order."""
        return truncation.epsilon_of(self.values, self.distance, delta=delta)


@dataclass(frozen=True, kw_only=True)
class Price(Charge):
    """Cost of an event, computed before the ledger is locked."""

    event: str


def together(charges: Iterable[Charge]) -> Charge:
    """Sum of charges; it does not depend on their order."""
    held = list(charges)
    values = renyi_filter.total((charge.values for charge in held), length=len(ORDERS))
    return Charge(values=values, distance=math.fsum(charge.distance for charge in held))


def price(event: DpEvent, relation: Relation) -> Price:
    """Canonical text and Renyi vector of an event.

    Raises:
        AccountingError: RDP does not support the event: the ledger cannot add it.
        BadInputError: the event is malformed.
    """
    from privacy_pipeline.accounting.events import canonical

    plain, distance = truncation.untruncated(event)
    return Price(event=canonical(event), values=rdp_vector(plain, relation)[1], distance=distance)


def plan_key(plan: MechanismPlan, event: str) -> str:
    """Part of the idempotency key: the plan's parameters and the event that they imply."""
    return hashlib.sha256(f"{plan.digest()}\n{event}".encode()).hexdigest()


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def encode_rdp(values: Sequence[float]) -> str:
    """A Renyi vector as text; Python's shortest decimals give back the same floats."""
    return json.dumps(list(values))


def charge_of(row: Mapping[Any, Any]) -> Charge:
    """The charge of an entry's row.

    Raises:
        LedgerError: its vector was stored for other orders, or it is damaged.
    """
    try:
        values = tuple(float(value) for value in json.loads(row["rdp"]))
    except (ValueError, TypeError) as error:
        raise schema.LedgerError(f"ledger entry {row['id']} is damaged: its RDP vector cannot be read") from error
    if row["orders_version"] != ORDERS_VERSION or len(values) != len(ORDERS) or not all(v >= 0 for v in values):
        raise schema.LedgerError(f"ledger entry {row['id']} holds an RDP vector that this version cannot add")
    distance = float(row["total_variation"])
    if not distance >= 0:
        raise schema.LedgerError(f"ledger entry {row['id']} is damaged: its total variation is {distance!r}")
    return Charge(values=values, distance=distance)


def counted_rows(connection: sa.Connection, budget_id: int, *conditions: sa.ColumnElement[bool]) -> list[sa.RowMapping]:
    """Rows of a budget's counted entries, oldest first."""
    table = schema.entries
    query = sa.select(table).where(table.c.budget_id == budget_id, table.c.state.in_(COUNTED), *conditions)
    return list(connection.execute(query.order_by(table.c.id)).mappings())


def budget_key(row: Mapping[Any, Any]) -> str:
    """Name of a budget: dataset, split and unit. Spans are no part of it: they share one budget."""
    return f"{row['dataset']}/{row['split']}/{row['unit']}"


def entry_of(row: Mapping[Any, Any], budget: Mapping[Any, Any]) -> Entry:
    """An entry's row as a value."""
    return Entry(
        id=row["id"],
        budget=budget_key(budget),
        dataset=budget["dataset"],
        span=int(row["span_key"]) if row["span_key"] else None,
        split=budget["split"],
        run_id=row["run_id"],
        node=row["node"],
        attempt=row["attempt"],
        state=State(row["state"]),
        plan=json.loads(row["plan"]),
        event=json.loads(row["event"]),
        executed_event=json.loads(row["executed_event"]) if row["executed_event"] else None,
        overrun=bool(row["overrun"]),
        epsilon=charge_of(row).epsilon(budget["delta"]),
        reserved_at=row["reserved_at"],
        started_at=row["started_at"],
        committed_at=row["committed_at"],
        expired_at=row["expired_at"],
    )
