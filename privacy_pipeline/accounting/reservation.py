"""Reserving a run's cost in the ledger.

An entry is `reserved` before anything else happens, `started` before the first read of data, `committed` after the
run. Each step is one transaction that is on disk when it returns, so a crash at any instant leaves an entry that counts
at least what was read. A grant is held by a token: whoever takes over a dead run's reservation replaces the token, and
the former holder, should it live after all, can no longer start.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from privacy_pipeline.accounting import ledger_schema as schema
from privacy_pipeline.accounting import renyi_filter, truncation
from privacy_pipeline.accounting.accountants import ORDERS, ORDERS_VERSION
from privacy_pipeline.accounting.admission import check_data, check_plan, checked_registration, refusal
from privacy_pipeline.accounting.grants import Grant, Ticket
from privacy_pipeline.accounting.ledger_entries import (
    Charge,
    Price,
    State,
    budget_key,
    charge_of,
    counted_rows,
    encode_rdp,
    now,
    plan_key,
    price,
    together,
)
from privacy_pipeline.accounting.registration import span_key

if TYPE_CHECKING:
    from privacy_pipeline.accounting.plan import MechanismPlan


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a run asks the ledger for."""

    dataset: str
    span: int | None
    data_digest: str
    split: str
    run_id: str
    node: str
    plan: MechanismPlan


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """A run's cost held against a budget, all at one instant.

    Attributes:
        budget: the budget's row.
        order: Renyi order at which the cap is enforced.
        cost: what the run asks for.
        spent: all counted entries together.
    """

    budget: sa.RowMapping
    order: float
    cost: Charge
    spent: Charge

    @property
    def after(self) -> Charge:
        """What would be spent with the run."""
        return together((self.spent, self.cost))

    @property
    def filter_epsilon(self) -> float:
        """What is held against the cap."""
        delta = filter_delta(self.budget)
        return renyi_filter.filter_epsilon(ORDERS, self.after.values, order=self.order, delta=delta)

    @property
    def fits(self) -> bool:
        """The filter's verdict, on the Renyi divergences and on what truncation costs of delta."""
        return self.filter_epsilon <= float(self.budget["epsilon"]) and self.truncations_that_fit > 0

    @property
    def truncations_that_fit(self) -> int:
        """How many such runs fit into the share of delta that is kept for truncation."""
        distance, room = self.cost.distance, self.budget["delta"] * truncation.SHARE
        spent = truncation.paid(self.spent.distance, epsilon=self.budget["epsilon"])
        return renyi_filter.runs_that_fit(spent, truncation.paid(distance, epsilon=self.budget["epsilon"]), room=room)

    @property
    def runs_that_fit(self) -> int:
        """How many such runs would be granted, one after the other."""
        at = ORDERS.index(self.order)
        room = renyi_filter.allowance(self.order, epsilon=self.budget["epsilon"], delta=filter_delta(self.budget))
        by_order = renyi_filter.runs_that_fit(self.spent.values[at], self.cost.values[at], room=room)
        return min(by_order, self.truncations_that_fit)


def filter_delta(budget: Mapping[Any, Any]) -> float:
    """The budget's delta without the share that is kept for truncation."""
    return float(budget["delta"]) * (1 - truncation.SHARE)


def reserve(engine: sa.Engine, request: Request) -> Grant:
    """Reserves a plan's cost in one transaction.

    Raises:
        BudgetRefusedError: the data is not what was registered, the plan does not fit the registration, or the budget
            does not suffice. The ledger is left as it was.
        AccountingError: the plan's event cannot be added by RDP.
        LedgerError: the ledger cannot be read or written.
    """
    cost = price(request.plan.event, request.plan.relation)
    key = plan_key(request.plan, cost.event)
    token = uuid.uuid4().hex
    table = schema.entries
    same = (table.c.run_id == request.run_id, table.c.node == request.node, table.c.plan_key == key)
    with schema.transaction(engine, write=True) as connection:
        registered = checked_registration(connection, dataset=request.dataset, span=request.span, split=request.split)
        check_data(connection, request, registered)
        check_plan(request.plan, registered, split=request.split)
        rows = connection.execute(sa.select(table).where(*same).order_by(table.c.attempt)).mappings().all()
        # A reservation that was never started has paid for nothing yet: the same attempt goes on with it.
        idle = next((row for row in rows if row["state"] == State.RESERVED.value and _same_data(row, request)), None)
        weighed = weigh(connection, request.dataset, request.split, cost, without=idle["id"] if idle else None)
        if not weighed.fits:
            raise refusal(weighed, cost)
        connection.execute(
            schema.budgets.update()
            .where(schema.budgets.c.id == weighed.budget["id"])
            .values(filter_order=weighed.order)
        )
        if idle is not None:
            connection.execute(table.update().where(table.c.id == idle["id"]).values(token=token, reserved_at=now()))
            entry_id, attempt = int(idle["id"]), int(idle["attempt"])
        else:
            attempt = 1 + max((int(row["attempt"]) for row in rows), default=0)
            values = _row(request, cost, key, token, attempt, weighed.budget["id"])
            entry_id = connection.execute(table.insert().values(**values).returning(table.c.id)).scalar_one()
    return Grant(
        engine=engine,
        entry_id=entry_id,
        attempt=attempt,
        budget=budget_key(weighed.budget),
        token=token,
        plan=request.plan,
        cost=cost,
    )


def continued(engine: sa.Engine, request: Request, ticket: Ticket) -> Grant | None:
    """The grant of an attempt that was started and killed, for whoever holds its ticket and asks for the very same.

    Nothing is charged: a replay under the same key adds the same noise to the same sums. That the key is there and
    fits is for the caller to see to.

    Returns:
        The grant; None where the entry is not that of this run, node, plan and data, was committed, or was taken over.

    Raises:
        AccountingError: the plan's event cannot be added by RDP.
        LedgerError: the ledger cannot be read.
    """
    cost = price(request.plan.event, request.plan.relation)
    table = schema.entries
    held = {
        "id": ticket.entry_id,
        "token": ticket.token,
        "state": State.STARTED.value,
        "run_id": request.run_id,
        "node": request.node,
        "plan_key": plan_key(request.plan, cost.event),
        "data_digest": request.data_digest,
        "span_key": span_key(request.span),
    }
    with schema.transaction(engine, write=False) as connection:
        query = sa.select(table).where(*(table.c[name] == value for name, value in held.items()))
        row = connection.execute(query).mappings().first()
        if row is None:
            return None
        budgets = schema.budgets
        budget = connection.execute(sa.select(budgets).where(budgets.c.id == row["budget_id"])).mappings().one()
    if (budget["dataset"], budget["split"]) != (request.dataset, request.split):
        return None
    return Grant(
        engine=engine,
        entry_id=ticket.entry_id,
        attempt=int(row["attempt"]),
        budget=budget_key(budget),
        token=ticket.token,
        plan=request.plan,
        cost=cost,
        continued=True,
    )


def weigh(connection: sa.Connection, dataset: str, split: str, cost: Price, *, without: int | None = None) -> Weighed:
    """Adds a cost to all counted entries of a budget, `without` one that is about to be reused."""
    table = schema.budgets
    budget = connection.execute(sa.select(table).where(table.c.dataset == dataset, table.c.split == split)).mappings()
    row = budget.one()
    others = () if without is None else (schema.entries.c.id != without,)
    counted = counted_rows(connection, row["id"], *others)
    spent = together(charge_of(entry) for entry in counted)
    order = row["filter_order"] if counted else None
    if order is None:
        delta = filter_delta(row)
        order = renyi_filter.choose_order(ORDERS, spent.values, cost.values, epsilon=row["epsilon"], delta=delta)
    return Weighed(budget=row, order=order, cost=cost, spent=spent)


def _same_data(row: sa.RowMapping, request: Request) -> bool:
    return bool(row["data_digest"] == request.data_digest and row["span_key"] == span_key(request.span))


def _row(request: Request, cost: Price, key: str, token: str, attempt: int, budget_id: int) -> dict[str, Any]:
    return {
        "budget_id": budget_id,
        "span_key": span_key(request.span),
        "data_digest": request.data_digest,
        "run_id": request.run_id,
        "node": request.node,
        "plan_key": key,
        "attempt": attempt,
        "state": State.RESERVED.value,
        "token": token,
        "plan": json.dumps(request.plan.parameters(), sort_keys=True),
        "event": cost.event,
        "orders_version": ORDERS_VERSION,
        "rdp": encode_rdp(cost.values),
        "total_variation": cost.distance,
        "overrun": False,
        "reserved_at": now(),
    }
