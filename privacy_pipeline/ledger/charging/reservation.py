"""Reserving a run's cost in the ledger.

An entry is `reserved` before anything else happens, `started` before the first read of data, `committed` after the
run. Each step is one transaction that is on disk when it returns, so a crash at any instant leaves an entry that counts
at least what was read. The holder of a grant has a token. A process that takes over a dead run's reservation replaces
the token, and the former holder, if it is still alive, can no longer start.

A run over several spans is one mechanism on all of their rows. Each budget that one of the spans belongs to is charged
its whole event, once (block composition: Lecuyer et al. 2019, section 4): nobody has rows under two budgets, so nobody
loses more. Its entries, one a budget, have one token and move together, in one transaction, or not at all.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from privacy_pipeline.accounting.plan import MechanismPlan
from privacy_pipeline.ledger.charging import charges, entries, unions
from privacy_pipeline.ledger.charging.admission import check_data, check_plan, check_principal, paying_budgets, refusal
from privacy_pipeline.ledger.charging.budget_check import BudgetCheck, check_budget
from privacy_pipeline.ledger.charging.entries import token_hash
from privacy_pipeline.ledger.charging.grants import Grant, ResumeToken
from privacy_pipeline.ledger.charging.request import Request
from privacy_pipeline.ledger.state.budgets import budgets_of
from privacy_pipeline.ledger.state.entries import Price, State, budget_key, price
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.ledger.storage.journal import VERIFY, Writer
from privacy_pipeline.ledger.storage.principal import principal
from privacy_pipeline.ledger.write_transactions import writing
from privacy_pipeline.spans import span_key

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class _Due:
    """What one budget is to pay, and the entries that it paid for the same run, node and plan before.

    `idle` was reserved and never started: it has paid for nothing yet, and the same attempt goes on with it.
    """

    key: str
    checked: BudgetCheck
    idle: sa.RowMapping | None
    attempts: int


def reserve(engine: sa.Engine, request: Request) -> Grant:
    """Reserve a plan's cost in one transaction, at every budget that pays, or at none.

    Raises:
        BudgetRefusedError: the data is not what was registered, the plan does not fit the registration, or a budget
            does not suffice. The ledger is left as it was.
        AccountingError: the plan's event cannot be added by RDP.
        LedgerError: the ledger cannot be read or written.
    """
    cost = price(request.plan.event, request.plan.relation)
    row = charges.row_of(charges.plan_text(request.plan), cost)
    union = unions.of(engine, request.dataset, request.span)  # outside of the lock: it may have to read many digests
    token = uuid.uuid4().hex
    with writing(engine) as journal:
        connection = journal.connection
        registered, budgets = paying_budgets(
            connection, dataset=request.dataset, span=request.span, split=request.split, union=union
        )
        backend = request.plan.backend if isinstance(request.plan, MechanismPlan) else None
        check_principal(connection, budgets, principal(), backend=backend)
        check_data(connection, request, registered)
        check_plan(request.plan, registered, split=request.split)
        asked = [_charge(connection, request, budget, cost) for budget in budgets]
        if any(not charge.checked.fits for charge in asked):
            raise refusal([charge.checked for charge in asked], cost)
        if len({charge.idle is None for charge in asked}) > 1:
            raise schema.LedgerError("the charges of one run are not in one state; nothing was written", fix=VERIFY)
        attempt = 1 + max(charge.attempts for charge in asked)
        planned = charges.put(connection, row)
        made = [_write(journal, request, charge, cost, planned, token=token, attempt=attempt) for charge in asked]
    return Grant(
        engine=engine,
        entry_ids=[number for number, _ in made],
        attempt=made[0][1],
        budget=budget_key(budgets[0]),
        token=token,
        plan=request.plan,
    )


def _charge(connection: sa.Connection, request: Request, budget: sa.RowMapping, cost: Price) -> _Due:
    table, key = schema.entries, request.key(cost, budget)
    same = (table.c.run_id == request.run_id, table.c.node == request.node, table.c.plan_key == key)
    rows = connection.execute(sa.select(table).where(*same).order_by(table.c.attempt)).mappings().all()
    idle = next((row for row in rows if row["state"] == State.RESERVED.value and _same(row, request)), None)
    checked = check_budget(connection, budget, request.purpose, cost, without=idle)
    return _Due(key, checked, idle, max((int(row["attempt"]) for row in rows), default=0))


def _write(
    journal: Writer, request: Request, charge: _Due, cost: Price, planned: str, *, token: str, attempt: int
) -> tuple[int, int]:
    """Return the entry of one charge, new or taken over; its number and attempt."""
    budget, secret = charge.checked.budget, token_hash(token)
    order, ceiling = charge.checked.order, charge.checked.ceiling
    if charge.idle is not None:
        entry_id = int(charge.idle["id"])
        entries.take_over(journal, budget, entry_id, token=secret, order=order, ceiling=ceiling)
        return entry_id, int(charge.idle["attempt"])
    fixed_columns = {
        "budget_id": budget["id"],
        "span_key": span_key(request.span),
        "data_digest": request.data_digest,
        "run_id": request.run_id,
        "node": request.node,
        "plan_key": charge.key,
        "attempt": attempt,
        "purpose": request.purpose,
        "principal": principal(),
        "token": secret,
        "planned": planned,
    }
    return entries.add(journal, budget, fixed_columns, cost=cost, order=order, ceiling=ceiling), attempt


def continued(engine: sa.Engine, request: Request, resume_token: ResumeToken) -> Grant | None:
    """Return the grant of a killed attempt, for a run that has its resume token and asks for the same.

    Nothing is charged: a replay under the same key adds the same noise to the same sums. The caller
    checks that the key is there and fits.

    Returns:
        The grant; None where the entries are not those of this run, node, plan and data, were committed, or were taken
        over.

    Raises:
        AccountingError: the plan's event cannot be added by RDP.
        LedgerError: the ledger cannot be read.
    """
    found = _held(engine, request, resume_token, State.STARTED)
    if found is None:
        return None
    rows, budget = found
    return Grant(
        engine=engine,
        entry_ids=[int(row["id"]) for row in rows],
        attempt=int(rows[0]["attempt"]),
        budget=budget,
        token=resume_token.token,
        plan=request.plan,
        continued=True,
    )


def committed(engine: sa.Engine, request: Request, resume_token: ResumeToken) -> int | None:
    """Return the first entry of an attempt that was killed after its commit, for a run that asks for the same.

    Returns:
        The entry; None where the entries are not those of this run, node, plan and data, or are not committed.

    Raises:
        AccountingError: the plan's event cannot be added by RDP.
        LedgerError: the ledger cannot be read.
    """
    found = _held(engine, request, resume_token, State.COMMITTED)
    return None if found is None else resume_token.entry_id


def _held(
    engine: sa.Engine, request: Request, resume_token: ResumeToken, state: State
) -> tuple[Sequence[sa.RowMapping], str] | None:
    """Return the entries that a resume token holds in a state, and the first budget; None where they do not fit."""
    cost = price(request.plan.event, request.plan.relation)
    table = schema.entries
    held = {
        "token": token_hash(resume_token.token),
        "state": state.value,
        "run_id": request.run_id,
        "node": request.node,
        "data_digest": request.data_digest,
        "span_key": span_key(request.span),
    }
    with schema.transaction(engine, write=False) as connection:
        query = sa.select(table).where(*(table.c[name] == value for name, value in held.items())).order_by(table.c.id)
        rows = connection.execute(query).mappings().all()
        budgets = budgets_of(connection, request.dataset, split=request.split, span=request.span)
    due = {budget["id"]: request.key(cost, budget) for budget in budgets}
    if not _settles(rows, due) or resume_token.entry_id not in [int(row["id"]) for row in rows]:
        return None
    return rows, budget_key(budgets[0])


def _settles(rows: Sequence[sa.RowMapping], due: dict[int, str]) -> bool:
    """Return whether entries are the charges that are due, one for each budget."""
    return bool(rows) and len(rows) == len(due) and {row["budget_id"]: row["plan_key"] for row in rows} == due


def _same(row: sa.RowMapping, request: Request) -> bool:
    asked = (request.data_digest, span_key(request.span), request.purpose)
    return (row["data_digest"], row["span_key"], row["purpose"]) == asked
