"""Budgets and registrations as the ledger's tables hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.state.entries import BudgetStatus, Cost, State, budget_key
from privacy_pipeline.ledger.state.held import enforced_epsilon, used_part
from privacy_pipeline.ledger.state.policy import stored_policy
from privacy_pipeline.ledger.state.registration import TRAIN, Registration, from_row
from privacy_pipeline.ledger.state.totals import Sum, Totals
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.spans import Span, span_key, spans_of

# Built once: every write asks for them while it holds the lock.
_REGISTRATION = sa.select(schema.registrations).where(
    schema.registrations.c.dataset == sa.bindparam("of"), schema.registrations.c.span_key == sa.bindparam("at")
)
_BUDGET = (
    sa.select(schema.budgets)
    .where(schema.budgets.c.dataset == sa.bindparam("of"), schema.budgets.c.split == sa.bindparam("part"))
    .where(sa.or_(schema.budgets.c.span_key == "", schema.budgets.c.span_key == sa.bindparam("at")))
    .order_by(schema.budgets.c.span_key.desc())
)


def check_cap(epsilon: float, delta: float) -> None:
    """Refuse a cap that is out of range."""
    if not (epsilon > 0 and math.isfinite(epsilon)) or not 0 < delta < 1:
        raise BadInputError(f"a cap needs epsilon above 0 and delta between 0 and 1, found {epsilon!r} and {delta!r}")


# What a budget's row holds before its first run.
UNUSED = {"policy": None, "filter_order": None, "cap_changes": 0, "ceiling": None, "delta_factor": 1}


def budget_row(registration: Registration, epsilon: float, delta: float) -> dict[str, Any]:
    """Return a new budget as columns of its table."""
    return {
        "dataset": registration.dataset,
        "split": TRAIN,
        "unit": registration.unit,
        "relation": registration.relation.value,
        "epsilon": epsilon,
        "delta": delta,
        "span_key": "",
        **UNUSED,
        "totals": Totals().to_json(),
    }


def find_registration(connection: sa.Connection, name: str, span: int | None) -> Registration | None:
    """Return the registration of a span, or None."""
    row = connection.execute(_REGISTRATION, {"of": name, "at": span_key(span)}).mappings().first()
    return None if row is None else from_row(row)


def find_budget(
    connection: sa.Connection, dataset: str, *, split: str = TRAIN, span: int | None = None
) -> sa.RowMapping | None:
    """Return the budget that pays for a span of a dataset: its own, or the one that the spans share; None where there
    is none.

    Returns:
        The budget's row.
    """
    asked = {"of": dataset, "part": split, "at": span_key(span)}
    return connection.execute(_BUDGET, asked).mappings().first()


def budgets_of(connection: sa.Connection, dataset: str, *, split: str, span: Span) -> list[sa.RowMapping]:
    """Return the budgets that pay for a span, or for several: each once, whichever of the spans share it.

    Returns:
        Rows in ascending order of their ids; none where a span has none.
    """
    found = [find_budget(connection, dataset, split=split, span=one) for one in spans_of(span)]
    known = {row["id"]: row for row in found if row is not None}
    return [known[number] for number in sorted(known)] if None not in found else []


def totals_of(budget: Mapping[Any, Any]) -> Totals:
    """Return the stored totals of a budget's row.

    Raises:
        LedgerError: they are damaged.
    """
    return Totals.from_json(budget["totals"], budget=budget_key(budget))


def set_totals(connection: sa.Connection, budget_id: int, totals: Totals, **changes: Any) -> None:
    """Store the totals of a budget, and further columns."""
    table = schema.budgets
    connection.execute(table.update().where(table.c.id == budget_id).values(totals=totals.to_json(), **changes))


def train_budgets(connection: sa.Connection, dataset: str) -> Sequence[sa.RowMapping]:
    """Return the budgets of the train split: the one that spans share first, then those of single spans."""
    table = schema.budgets
    query = sa.select(table).where(table.c.dataset == dataset, table.c.split == TRAIN).order_by(table.c.id)
    return connection.execute(query).mappings().all()


def charge_of(total: Sum) -> Cost:
    """Return a sum as a charge."""
    return Cost(values=total.values, distance=total.distance)


def status_of(budget: Mapping[Any, Any]) -> BudgetStatus:
    """Return a budget at a glance, from its stored totals alone."""
    totals, policy = totals_of(budget), stored_policy(budget["policy"])
    total, closed = totals.all, policy is not None and policy.is_closed
    spent = charge_of(total)
    cap = {"epsilon": budget["epsilon"], "delta": budget["delta"], "ceiling": budget["ceiling"]}
    held = enforced_epsilon(spent, order=budget["filter_order"], **cap)
    used = used_part(spent, order=budget["filter_order"], **cap)
    return BudgetStatus(
        budget=budget_key(budget),
        dataset=budget["dataset"],
        split=budget["split"],
        unit=budget["unit"],
        relation=Relation(budget["relation"]),
        cap_epsilon=budget["epsilon"],
        cap_delta=budget["delta"],
        ceiling=budget["ceiling"],
        delta_factor=budget["delta_factor"],
        enforced_epsilon=held,
        spent_epsilon=spent.epsilon(budget["delta"]),
        remaining_epsilon=0.0 if closed else max(0.0, budget["epsilon"] - held),
        used=used,
        simple_epsilon=total.simple_epsilon,
        entries={state: totals.states.get(state.value, 0) for state in State},
        overruns=totals.overruns,
        filter_order=budget["filter_order"],
        cap_changes=budget["cap_changes"],
        alerts=tuple(level for level in policy.alerts if used >= level) if policy else (),
        closed=closed,
    )
