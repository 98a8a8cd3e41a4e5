"""Budgets and registrations as the ledger's tables hold them."""

from __future__ import annotations

import math
from typing import Any

import sqlalchemy as sa

from privacy_pipeline.accounting import ledger_schema as schema
from privacy_pipeline.accounting.ledger_entries import COUNTED, BudgetStatus, State, budget_key, charge_of, together
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.registration import TRAIN, Registration, from_row, span_key
from privacy_pipeline.errors import BadInputError


def check_cap(epsilon: float, delta: float) -> None:
    """Refuses a cap that is out of range."""
    if not (epsilon > 0 and math.isfinite(epsilon)) or not 0 < delta < 1:
        raise BadInputError(f"a cap needs epsilon above 0 and delta between 0 and 1, found {epsilon!r} and {delta!r}")


def budget_row(registration: Registration, epsilon: float, delta: float) -> dict[str, Any]:
    """A new budget as columns of its table."""
    return {
        "dataset": registration.dataset,
        "split": TRAIN,
        "unit": registration.unit,
        "relation": registration.relation.value,
        "epsilon": epsilon,
        "delta": delta,
        "cap_changes": 0,
    }


def check_budget(budget: sa.RowMapping, registration: Registration, epsilon: float, delta: float) -> None:
    """Refuses a span of another unit, relation or cap than its dataset has."""
    if (budget["unit"], budget["relation"]) != (registration.unit, registration.relation.value):
        raise BadInputError(
            f"the spans of dataset {registration.dataset} share one budget, for unit {budget['unit']!r} under "
            f"{budget['relation']}; span {registration.span} has unit {registration.unit!r} under "
            f"{registration.relation.value}"
        )
    if (budget["epsilon"], budget["delta"]) != (epsilon, delta):
        raise BadInputError(
            f"dataset {registration.dataset} has a cap of epsilon {budget['epsilon']:g} at delta {budget['delta']:g} "
            f"for all its spans; registering does not change it to {epsilon:g} at {delta:g}",
            fix="register with the same cap, and change the cap as a step of its own",
        )


def refuse_foreign_data(connection: sa.Connection, registration: Registration) -> None:
    """Refuses data that is registered under another name."""
    table = schema.registrations
    foreign = sa.select(table.c.dataset).where(
        table.c.digest == registration.digest, table.c.dataset != registration.dataset
    )
    owner = connection.scalar(foreign)
    if owner is not None:
        raise BadInputError(
            f"this data is registered already, as dataset {owner}: a second name would give it a second budget",
            fix=f"set dataset.name to {owner}",
        )


def find_registration(connection: sa.Connection, name: str, span: int | None) -> Registration | None:
    """The registration of a span, or None."""
    table = schema.registrations
    query = sa.select(table).where(table.c.dataset == name, table.c.span_key == span_key(span))
    row = connection.execute(query).mappings().first()
    return None if row is None else from_row(row)


def find_budget(connection: sa.Connection, dataset: str) -> sa.RowMapping | None:
    """The budget of a dataset, or None."""
    table = schema.budgets
    query = sa.select(table).where(table.c.dataset == dataset, table.c.split == TRAIN)
    return connection.execute(query).mappings().first()


def status_of(connection: sa.Connection, budget: sa.RowMapping) -> BudgetStatus:
    """A budget at a glance."""
    table = schema.entries
    rows = connection.execute(sa.select(table).where(table.c.budget_id == budget["id"])).mappings().all()
    charges = [charge_of(row) for row in rows if row["state"] in COUNTED]
    spent = together(charges).epsilon(budget["delta"])
    return BudgetStatus(
        budget=budget_key(budget),
        dataset=budget["dataset"],
        split=budget["split"],
        unit=budget["unit"],
        relation=Relation(budget["relation"]),
        cap_epsilon=budget["epsilon"],
        cap_delta=budget["delta"],
        spent_epsilon=spent,
        remaining_epsilon=max(0.0, budget["epsilon"] - spent),
        simple_epsilon=math.fsum(charge.epsilon(budget["delta"]) for charge in charges),
        entries={state: sum(row["state"] == state.value for row in rows) for state in State},
        overruns=sum(bool(row["overrun"]) for row in rows),
        filter_order=budget["filter_order"],
        cap_changes=budget["cap_changes"],
    )
