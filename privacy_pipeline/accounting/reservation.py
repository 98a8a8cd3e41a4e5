"""Reserving a run's cost, and the grant that the run holds until it commits.

An entry is `reserved` before anything else happens, `started` before the first read of data, `committed` after the
run. Each step is one transaction that is on disk when it returns, so a crash at any instant leaves an entry that counts
at least what was read. A grant is held by a token: whoever takes over a dead run's reservation replaces the token, and
the former holder, should it live after all, can no longer start.
"""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from privacy_pipeline.accounting import ledger_schema as schema
from privacy_pipeline.accounting import renyi_filter
from privacy_pipeline.accounting.accountants import ORDERS, ORDERS_VERSION, AccountingError, epsilon_from_rdp
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
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.registration import TRAIN, Registration, from_row, span_key
from privacy_pipeline.errors import BadInputError, BudgetRefusedError

if TYPE_CHECKING:
    from dp_accounting import DpEvent

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


class Grant:
    """Leave to run one plan once. Made by `Ledger.spend`.

    Attributes:
        entry_id: the ledger entry that pays for the run.
        attempt: counts the charges of one run, node and plan; 1 for the first.
        budget: key of the budget.
    """

    def __init__(
        self,
        *,
        engine: sa.Engine,
        entry_id: int,
        attempt: int,
        budget: str,
        token: str,
        plan: MechanismPlan,
        cost: Price,
    ) -> None:
        self.entry_id = entry_id
        self.attempt = attempt
        self.budget = budget
        self._engine = engine
        self._token = token
        self._plan = plan
        self._cost = cost

    def start(self) -> None:
        """To be called right before the first read of data. From here on the entry counts for ever.

        Raises:
            BudgetRefusedError: the reservation expired, was taken over by a later attempt, or was started before.
            LedgerError: the ledger cannot be written: the data may not be read.
        """
        self._move(State.RESERVED, state=State.STARTED.value, started_at=now())

    def commit(self, executed_event: DpEvent) -> None:
        """Records what really ran. Costing less is never refunded; costing more is charged and marked.

        Args:
            executed_event: the event of what was executed.

        Raises:
            AccountingError: RDP does not support the executed event; the budget is charged without limit.
            BadInputError: the executed event is malformed; the budget is charged without limit.
            BudgetRefusedError: this grant was not started, or was committed before.
            LedgerError: the ledger cannot be written; the entry stays started and counts as planned.
        """
        try:
            executed = price(executed_event, self._plan.relation)
        except (AccountingError, BadInputError):
            # What cannot be priced may have cost anything; it is charged before the error goes on.
            self._commit(Price(event="null", values=(math.inf,) * len(ORDERS)))
            raise
        self._commit(executed)

    def _commit(self, executed: Price) -> None:
        planned = self._cost.values
        values = planned if executed.event == self._cost.event else tuple(map(max, planned, executed.values))
        self._move(
            State.STARTED,
            state=State.COMMITTED.value,
            committed_at=now(),
            executed_event=executed.event,
            overrun=values != planned,
            rdp=encode_rdp(values),
        )

    def release(self) -> None:
        """Gives the reservation back, if it was never started."""
        with schema.transaction(self._engine, write=True) as connection:
            self._update(connection, State.RESERVED, {"state": State.EXPIRED.value, "expired_at": now()})

    def _move(self, expected: State, **changes: Any) -> None:
        with schema.transaction(self._engine, write=True) as connection:
            moved = self._update(connection, expected, changes)
        if moved != 1:
            raise BudgetRefusedError(
                f"ledger entry {self.entry_id} is no longer {expected.value} for this attempt: it expired, moved "
                "on, or another attempt of the run took it over",
                fix="run again; a new attempt reserves anew",
            )

    def _update(self, connection: sa.Connection, state: State, changes: dict[str, Any]) -> int:
        table = schema.entries
        held = (table.c.id == self.entry_id, table.c.token == self._token, table.c.state == state.value)
        return connection.execute(table.update().where(*held).values(**changes)).rowcount


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
        _check_data(connection, request, registered)
        check_plan(request.plan, registered, split=request.split)
        rows = connection.execute(sa.select(table).where(*same).order_by(table.c.attempt)).mappings().all()
        # A reservation that was never started has paid for nothing yet: the same attempt goes on with it.
        idle = next((row for row in rows if row["state"] == State.RESERVED.value and _same_data(row, request)), None)
        weighed = weigh(connection, request.dataset, request.split, cost, without=idle["id"] if idle else None)
        if not weighed.fits:
            raise _refusal(weighed, cost)
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


def checked_registration(connection: sa.Connection, *, dataset: str, span: int | None, split: str) -> Registration:
    """The registration of what a run wants to read.

    Raises:
        BudgetRefusedError: it is not registered, or its split has no budget.
    """
    table = schema.registrations
    query = sa.select(table).where(table.c.dataset == dataset, table.c.span_key == span_key(span))
    row = connection.execute(query).mappings().first()
    if row is None:
        where = dataset if span is None else f"{dataset} (span {span})"
        raise BudgetRefusedError(f"dataset {where} is not registered in the ledger", fix=schema.REGISTER_FIX)
    if split != TRAIN:
        raise BudgetRefusedError(f"split {split!r} of dataset {dataset} has no budget; only {TRAIN!r} has one")
    return from_row(row)


def check_plan(plan: MechanismPlan, registered: Registration, *, split: str) -> None:
    """Holds a plan against the registered facts that its guarantee rests on.

    Raises:
        BudgetRefusedError: unit, relation, number of units or contribution bound differ.
    """
    pairs: tuple[tuple[str, object, object], ...] = (
        ("privacy unit", plan.unit, registered.unit),
        ("neighbouring relation", plan.relation.value, registered.relation.value),
    )
    if plan.relation is Relation.ZERO_OUT:  # else the number is secret, and the plan has none
        pairs += (("number of units in the split", plan.units, registered.splits[split].units),)
    for what, planned, known in pairs:
        if planned != known:
            raise BudgetRefusedError(
                f"dataset {registered.name} is registered with {what} {known!r}, but the plan has {planned!r}",
                fix="let the config state what was registered; a budget has one unit and one relation",
            )
    if plan.contribution_bound > registered.contribution_bound:
        raise BudgetRefusedError(
            f"dataset {registered.name} is registered with at most {registered.contribution_bound} rows of a unit, but "
            f"the plan uses {plan.contribution_bound}",
            fix="lower contribution_bound",
        )


def _check_data(connection: sa.Connection, request: Request, registered: Registration) -> None:
    if request.data_digest == registered.digest:
        return
    table = schema.registrations
    known = connection.execute(sa.select(table).where(table.c.digest == request.data_digest)).mappings().first()
    if known is not None:
        owner = from_row(known).name
        raise BudgetRefusedError(
            f"the data of this run is registered as {owner}, not as {registered.name}",
            fix=f"set dataset.name and dataset.span to those of {owner}: its budget is charged for this data",
        )
    raise BudgetRefusedError(
        f"the data is not what was registered as {registered.name}: its SHA-256 is {request.data_digest[:12]}..., "
        f"registered is {registered.digest[:12]}...",
        fix=f"restore the registered data, or register the new data under a span of its own: {schema.REGISTER_FIX}",
    )


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


def _refusal(weighed: Weighed, cost: Price) -> BudgetRefusedError:
    cap, delta = float(weighed.budget["epsilon"]), float(weighed.budget["delta"])
    spent = epsilon_from_rdp(ORDERS, weighed.spent, delta)
    run = epsilon_from_rdp(ORDERS, cost.values, delta)
    after = epsilon_from_rdp(ORDERS, weighed.after, delta)
    message = (
        f"budget {budget_key(weighed.budget)}: spent epsilon {spent:.4f}, this run costs {run:.4f}, together "
        f"{after:.4f}, above the cap of {cap:g} (RDP, delta {delta:g}); {max(0.0, cap - spent):.4f} remain"
    )
    if after <= cap:
        reached = renyi_filter.filter_epsilon(ORDERS, weighed.after, order=weighed.order, delta=delta)
        message = (
            f"budget {budget_key(weighed.budget)}: spent epsilon {spent:.4f}, this run costs {run:.4f}; at Renyi order "
            f"{weighed.order:g}, which the first run fixed, together {reached:.4f}, above the cap of {cap:g} (delta "
            f"{delta:g}); {max(0.0, cap - spent):.4f} remain"
        )
    return BudgetRefusedError(
        message, fix="ask for less (more noise, fewer epochs), or have the owner of the budget raise its cap"
    )
