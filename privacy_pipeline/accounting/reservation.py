"""Reserving a run's cost in the ledger.

An entry is `reserved` before anything else happens, `started` before the first read of data, `committed` after the
run. Each step is one transaction that is on disk when it returns, so a crash at any instant leaves an entry that counts
at least what was read. A grant is held by a token: whoever takes over a dead run's reservation replaces the token, and
the former holder, should it live after all, can no longer start.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from privacy_pipeline.accounting import ledger_schema as schema
from privacy_pipeline.accounting import renyi_filter
from privacy_pipeline.accounting.accountants import ORDERS, ORDERS_VERSION
from privacy_pipeline.accounting.admission import check_data, check_plan, checked_registration, refusal
from privacy_pipeline.accounting.grants import Grant, Ticket
from privacy_pipeline.accounting.ledger_entries import (
    Price,
    State,
    budget_key,
    counted_rows,
    decode_rdp,
    encode_rdp,
    now,
    plan_key,
    price,
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
    """A run's cost held against a budget, all at one instant."""

    budget: sa.RowMapping
    order: float
    spent: tuple[float, ...]
    after: tuple[float, ...]

    @property
    def fits(self) -> bool:
        """The filter's verdict."""
        delta = self.budget["delta"]
        reached = renyi_filter.filter_epsilon(ORDERS, self.after, order=self.order, delta=delta)
        return reached <= float(self.budget["epsilon"])


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
    spent = renyi_filter.total((decode_rdp(entry) for entry in counted), length=len(ORDERS))
    order = row["filter_order"] if counted else None
    if order is None:
        order = renyi_filter.choose_order(ORDERS, spent, cost.values, epsilon=row["epsilon"], delta=row["delta"])
    after = renyi_filter.total((spent, cost.values), length=len(ORDERS))
    return Weighed(budget=row, order=order, spent=spent, after=after)


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
        "overrun": False,
        "reserved_at": now(),
    }
