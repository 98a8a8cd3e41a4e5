"""Reserving a run's cost in the ledger.

An entry is `reserved` before anything else happens, `started` before the first read of data, `committed` after the
run. Each step is one transaction that is on disk when it returns, so a crash at any instant leaves an entry that counts
at least what was read. A grant is held by a token: whoever takes over a dead run's reservation replaces the token, and
the former holder, should it live after all, can no longer start.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from privacy_pipeline.accounting import charges, entries, renyi_filter, truncation
from privacy_pipeline.accounting import ledger_schema as schema
from privacy_pipeline.accounting.accountants import ORDERS
from privacy_pipeline.accounting.admission import check_data, check_plan, check_principal, checked_budget, refusal
from privacy_pipeline.accounting.entries import token_hash
from privacy_pipeline.accounting.grants import Grant, Ticket
from privacy_pipeline.accounting.held import filter_delta, held_epsilon
from privacy_pipeline.accounting.journal import writing
from privacy_pipeline.accounting.ledger_budgets import charge_of, totals_of
from privacy_pipeline.accounting.ledger_entries import Charge, Price, State, budget_key, plan_key, price
from privacy_pipeline.accounting.policy import share_of, stored_policy
from privacy_pipeline.accounting.principal import principal
from privacy_pipeline.accounting.registration import span_key
from privacy_pipeline.accounting.totals import Sum, fixed

if TYPE_CHECKING:
    from privacy_pipeline.accounting.plan import ChargedPlan

TRAINING = "train"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a run asks the ledger for.

    Attributes:
        dataset, span, split: what it wants to read.
        data_digest: SHA-256 of the data.
        run_id, node: who asks.
        plan: what it will do.
        purpose: share of the budget that pays.
    """

    dataset: str
    span: int | None
    data_digest: str
    split: str
    run_id: str
    node: str
    plan: ChargedPlan
    purpose: str = TRAINING


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """A run's cost held against a budget, all at one instant.

    Attributes:
        budget: the budget's row.
        order: Renyi order at which the cap is enforced.
        cost: what the run asks for.
        total: exact sum of all counted entries.
        purpose: what the run is for.
        share: part of the budget that the run's purpose may use.
        used: exact sum of that purpose's counted entries.
    """

    budget: sa.RowMapping
    order: float
    cost: Charge
    total: Sum
    purpose: str
    share: float
    used: Sum

    @property
    def spent(self) -> Charge:
        """All counted entries together."""
        return charge_of(self.total)

    @property
    def after(self) -> Charge:
        """What would be spent with the run."""
        return charge_of(self.total + Sum.of(self.cost.values, self.cost.distance, 0.0))

    @property
    def filter_epsilon(self) -> float:
        """What the divergences alone would hold against the cap, with the run."""
        delta = filter_delta(self.budget)
        return renyi_filter.filter_epsilon(ORDERS, self.after.values, order=self.order, delta=delta)

    @property
    def held_before(self) -> float:
        """What is held against the cap now."""
        return self._held(self.spent)

    @property
    def held_after(self) -> float:
        """What would be held against the cap with the run: within it just where the filter grants, shares aside."""
        if self.truncations_that_fit == 0:
            return math.inf
        held, cap = self._held(self.after), float(self.budget["epsilon"])
        # The filter counts in whole numbers, rounded against whoever asks; what that refuses is above the cap.
        return held if self.runs_by_order else max(held, math.nextafter(cap, math.inf))

    def _held(self, charge: Charge) -> float:
        return held_epsilon(charge, order=self.order, epsilon=self.budget["epsilon"], delta=self.budget["delta"])

    @property
    def fits(self) -> bool:
        """The filter's verdict, on the Renyi divergences and on what truncation costs of delta."""
        return self.filter_epsilon <= float(self.budget["epsilon"]) and self.runs_that_fit > 0

    @property
    def truncations_that_fit(self) -> int:
        """How many such runs fit into the share of delta that is kept for truncation."""
        distance, room = self.cost.distance, self.budget["delta"] * truncation.SHARE
        spent = truncation.paid(self.spent.distance, epsilon=self.budget["epsilon"])
        return renyi_filter.runs_that_fit(spent, truncation.paid(distance, epsilon=self.budget["epsilon"]), room=room)

    @property
    def runs_that_fit(self) -> int:
        """How many such runs would be granted, one after the other."""
        return min(self.runs_by_order, self.truncations_that_fit, self.runs_in_share)

    @property
    def runs_by_order(self) -> int:
        """How many such runs fit the cap at the filter's order."""
        at = ORDERS.index(self.order)
        room = renyi_filter.allowance(self.order, epsilon=self.budget["epsilon"], delta=filter_delta(self.budget))
        cost, endless = fixed(self.cost.values[at])
        if endless or self.total.infinite[at] or room < 0:
            return 0
        left = renyi_filter.floor_fixed(room) - self.total.numbers[at]
        return renyi_filter.runs_that_fit(0, cost, room=left)

    @property
    def runs_in_share(self) -> int:
        """How many such runs fit into the share of their purpose, at the filter's order."""
        at = ORDERS.index(self.order)
        room = renyi_filter.allowance(self.order, epsilon=self.budget["epsilon"], delta=filter_delta(self.budget))
        if self.share <= 0 or room < 0 or self.used.infinite[at]:
            return 0
        cost, endless = fixed(self.cost.values[at])
        left = renyi_filter.floor_fixed(room * self.share) - self.used.numbers[at]
        return 0 if endless else renyi_filter.runs_that_fit(0, cost, room=left)


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
    row = charges.row_of(charges.plan_text(request.plan), cost)
    token = uuid.uuid4().hex
    table = schema.entries
    same = (table.c.run_id == request.run_id, table.c.node == request.node, table.c.plan_key == key)
    with writing(engine) as journal:
        connection = journal.connection
        registered, budget = checked_budget(connection, dataset=request.dataset, span=request.span, split=request.split)
        check_principal(connection, budget, principal())
        check_data(connection, request, registered)
        check_plan(request.plan, registered, split=request.split)
        rows = connection.execute(sa.select(table).where(*same).order_by(table.c.attempt)).mappings().all()
        # A reservation that was never started has paid for nothing yet: the same attempt goes on with it.
        idle = next((row for row in rows if row["state"] == State.RESERVED.value and _same(row, request)), None)
        weighed = weigh(connection, budget, request.purpose, cost, without=idle)
        if not weighed.fits:
            raise refusal(weighed, cost)
        if idle is not None:
            entry_id, attempt = int(idle["id"]), int(idle["attempt"])
            entries.take_over(journal, weighed.budget, entry_id, token=token_hash(token), order=weighed.order)
        else:
            attempt = 1 + max((int(row["attempt"]) for row in rows), default=0)
            fixed_columns = {
                "budget_id": weighed.budget["id"],
                "span_key": span_key(request.span),
                "data_digest": request.data_digest,
                "run_id": request.run_id,
                "node": request.node,
                "plan_key": key,
                "attempt": attempt,
                "purpose": request.purpose,
                "principal": principal(),
                "token": token_hash(token),
                "planned": charges.put(connection, row),
            }
            entry_id = entries.add(journal, weighed.budget, fixed_columns, cost=cost, order=weighed.order)
    return Grant(
        engine=engine,
        entry_id=entry_id,
        attempt=attempt,
        budget=budget_key(weighed.budget),
        token=token,
        plan=request.plan,
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
        "token": token_hash(ticket.token),
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
        continued=True,
    )


def weigh(
    connection: sa.Connection,
    row: sa.RowMapping,
    purpose: str,
    cost: Price,
    *,
    without: Mapping[Any, Any] | None = None,
    before: Sequence[tuple[str, Price]] = (),
) -> Weighed:
    """Adds a cost to all counted entries of a budget.

    Args:
        connection: the transaction in which `row` was read.
        row: the budget's row.
        purpose: share of the budget that pays.
        cost: what is asked for.
        without: row of an entry that is about to be reused, and so is not counted.
        before: purpose and price of what will be reserved before it, as if it were; the first of them fixes the order
            of a budget that has none.
    """
    totals, policy = totals_of(row), stored_policy(row["policy"])
    if without is not None:
        reused = charges.Charges(connection).sum(charges.counted_digest(without), row["delta"])
        totals = totals.adding(without["purpose"], reused.times(-1))
    total = totals.all
    order = row["filter_order"] if total.count else None
    if order is None:
        spent, delta = charge_of(total).values, filter_delta(row)
        first = before[0][1] if before else cost
        order = renyi_filter.choose_order(ORDERS, spent, first.values, epsilon=row["epsilon"], delta=delta)
    for paying, other in before:
        totals = totals.adding(paying, Sum.of(other.values, other.distance, 0.0))
    used, share = totals.spent.get(purpose, Sum()), share_of(policy, purpose)
    total = totals.all
    return Weighed(budget=row, order=order, cost=cost, total=total, purpose=purpose, share=share, used=used)


def _same(row: sa.RowMapping, request: Request) -> bool:
    asked = (request.data_digest, span_key(request.span), request.purpose)
    return (row["data_digest"], row["span_key"], row["purpose"]) == asked
