"""Entries of the ledger: what a run costs, and what the ledger reports about it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from privacy_pipeline.accounting import truncation
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.renyi import rdp_vector
from privacy_pipeline.ledger.state.totals import Sum, sum_of
from privacy_pipeline.pictures.budgets import budgets_html
from privacy_pipeline.spans import Span

if TYPE_CHECKING:
    from dp_accounting import DpEvent
    from pydantic import JsonValue

    from privacy_pipeline.accounting.plan import ChargedPlan


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
        span: span that was read; all of them where a run reads several, which then has an entry for each budget.
        split: split that was read.
        run_id: run that asked.
        node: node of the run that asked.
        attempt: counts the charges of one run, node and plan.
        purpose: share of the budget that it is charged to.
        principal: user who asked.
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
    span: Span
    split: str
    run_id: str
    node: str
    attempt: int
    purpose: str
    principal: str
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

    `enforced_epsilon` counts against the cap, and what remains is the cap less that. For runs that are chosen after
    results were seen only the cap itself is proven (`renyi_filter`), at its delta times `delta_factor`.

    Attributes:
        budget: key of the budget.
        dataset: dataset, all spans together.
        split: split that the budget covers.
        unit: privacy unit.
        relation: neighbouring relation.
        cap_epsilon: epsilon that all runs together may reach.
        cap_delta: delta of the cap.
        enforced_epsilon: all counted entries together at the filter's order (`held`): what is enforced.
        spent_epsilon: all counted entries together at the best order: tighter, for a set of runs fixed beforehand.
        remaining_epsilon: the cap less what counts against it.
        used: part of the cap's room at the filter's order that is used (`held.used_part`).
        simple_epsilon: sum of the entries' own epsilons: the total without composition.
        entries: number of entries in each state.
        overruns: entries that executed more than they planned.
        filter_order: Renyi order at which the cap is enforced, once there was a run.
        cap_changes: how often the cap or the policy was changed.
        ceiling: epsilon at which failures are priced (`renyi_filter`) and which no cap may pass; None while no run that
            counts may fail.
        delta_factor: what the cap's delta is multiplied by in all that is proven: 1, or more where a version before
            format 5 let the order or the delta be chosen after outputs were seen (`earlier_rules`).
        older: whether a version before format 5 registered a span of the dataset: digests in what it wrote are plain.
        unbound: whether such a span was not registered again since: its rows are compared with no other dataset's, and
            no run is checked against its division.
        alerts: parts of the cap's room at which the policy warns, and which `used` reaches.
        closed: whether no purpose may use anything: its policy has no `eval_epsilon` any more, or no shares.
    """

    budget: str
    dataset: str
    split: str
    unit: str
    relation: Relation
    cap_epsilon: float
    cap_delta: float
    enforced_epsilon: float
    spent_epsilon: float
    remaining_epsilon: float
    used: float
    simple_epsilon: float
    entries: Mapping[State, int]
    overruns: int
    filter_order: float | None
    cap_changes: int
    ceiling: float | None = None
    delta_factor: int = 1
    older: bool = False
    unbound: bool = False
    alerts: tuple[float, ...] = ()
    closed: bool = False

    @property
    def passed(self) -> bool:
        """Whether more is spent than the cap allows: entries executed more than planned, or the cap was lowered."""
        return self.enforced_epsilon > self.cap_epsilon

    def _repr_html_(self) -> str:
        return budgets_html([self])


class Budgets(list[BudgetStatus]):
    """Budgets at a glance: a list, which a notebook shows as a table and as bars."""

    def _repr_html_(self) -> str:
        return budgets_html(self)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a plan would do to a budget; nothing was reserved.

    Where no run fixed the filter's order yet, it is the one that this plan would fix (or the first before it).

    Attributes:
        epsilon_run: cost of the run alone, by RDP at the cap's delta and its best order.
        epsilon_before: what counts against the cap so far, at the filter's order (`held`).
        epsilon_after: what counts against the cap with the run: above the cap where the cap refuses the run, infinite
            where truncation costs more of delta than is kept for it.
        cap: the cap's epsilon.
        delta: the cap's delta.
        fits: whether a reservation would be granted now; where several budgets would pay, by all of them.
        runs_that_fit: how many such runs would be granted, one after the other.
        limit: what refuses it, if that is not the cap's epsilon alone; empty otherwise.
        budget: key of the budget that all of this is about: where several would pay, the one with the least room.
        others: the same for the others, those with less room first; all of them would be charged, or none.
    """

    epsilon_run: float
    epsilon_before: float
    epsilon_after: float
    cap: float
    delta: float
    fits: bool
    runs_that_fit: int
    limit: str = ""
    budget: str = ""
    others: tuple[Forecast, ...] = ()

    @property
    def remaining(self) -> float:
        """The cap less what counts against it before the run."""
        return max(0.0, self.cap - self.epsilon_before)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the ledger adds up.

    Attributes:
        values: Renyi vector, for truncated sampling of the event without truncation.
        distance: total variation distance that truncation adds (see `truncation`).
    """

    values: tuple[float, ...]
    distance: float = 0.0

    def epsilon(self, delta: float) -> float:
        """Return epsilon at delta, by RDP at its best order."""
        return truncation.epsilon_of(self.values, self.distance, delta=delta)


@dataclass(frozen=True, kw_only=True)
class Price(Cost):
    """Cost of an event, computed before the ledger is locked.

    Attributes:
        event: the event's canonical text.
    """

    event: str


def together(charges: Iterable[Cost]) -> Cost:
    """Return the sum of charges as the ledger adds them, rounded up; it does not depend on their order."""
    total = sum_of(Sum.of(charge.values, charge.distance, 0.0) for charge in charges)
    return Cost(values=total.values, distance=total.distance)


def price(event: DpEvent, relation: Relation) -> Price:
    """Return the canonical text and Renyi vector of an event; computed once in a process for equal events.

    Raises:
        AccountingError: RDP does not support the event: the ledger cannot add it.
        BadInputError: the event is malformed.
    """
    from privacy_pipeline.accounting.events import canonical

    text = canonical(event)
    known = _PRICES.get((text, relation))
    if known is None:
        plain, distance = truncation.untruncated(event)
        known = Price(event=text, values=rdp_vector(plain, relation)[1], distance=distance)
        if len(_PRICES) >= _MOST_PRICES:
            _PRICES.clear()
        _PRICES[(text, relation)] = known
    return known


_PRICES: dict[tuple[str, Relation], Price] = {}
_MOST_PRICES = 1000


def plan_key(plan: ChargedPlan, event: str, *, charge: str = "") -> str:
    """Return the plan's part of the idempotency key: its parameters and the event that they imply.

    Args:
        plan: the plan.
        event: canonical text of its event.
        charge: which of the charges of a run over several spans it is; empty for a run over one.
    """
    text = f"{plan.digest()}\n{event}"
    return hashlib.sha256((f"{text}\n{charge}" if charge else text).encode()).hexdigest()


def budget_key(row: Mapping[Any, Any]) -> str:
    """Return the name of a budget: dataset, split and unit; the span too where it has a budget of its own."""
    span = f"/span-{row['span_key']}" if row["span_key"] else ""
    return f"{row['dataset']}/{row['split']}/{row['unit']}{span}"
