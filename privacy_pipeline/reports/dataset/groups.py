"""What a budget's bounds mean for a group of units: a person with several rows, where the unit is a row."""

from __future__ import annotations

import math

from privacy_pipeline.accounting.group_privacy import group_epsilon, group_pair
from privacy_pipeline.ledger.state.entries import BudgetStatus, Cost
from privacy_pipeline.reports.dataset.dataset_report import GroupReading
from privacy_pipeline.reports.figures import Figure, Loss, Source

GROUPS = (2, 5, 10)
_LEMMA = "group property of (epsilon, delta)-DP"
_NO_BOUND = "no bound for a group of that size"


def group_reading(size: int, proven: Loss, total: Cost, status: BudgetStatus, numbers: str) -> GroupReading:
    """Return the reading for one size of group.

    Args:
        size: units of the group.
        proven: the budget's bound for one unit.
        total: sum of all counted entries.
        status: the budget.
        numbers: the entries' numbers, as a source names them.
    """
    chosen = Source(place="report", field="group size", method="chosen")
    at = Figure(
        value=status.cap_delta, kind="delta", source=Source(place="budget", name=status.budget, field="cap_delta")
    )
    found = group_epsilon(total.epsilon, status.cap_delta, size=size)
    source = Source(place="ledger entries", name=numbers, field="rdp", method=f"group of {size}")
    fixed = (
        Loss(epsilon=Figure(value=found, kind="epsilon", source=source), delta=at, basis="RDP, " + _LEMMA)
        if math.isfinite(found)
        else Loss(epsilon=None, delta=at, basis="RDP, " + _LEMMA, missing=_NO_BOUND)
    )
    return GroupReading(
        size=Figure(value=size, kind="count", source=chosen), proven=_of_pair(proven, size), fixed=fixed
    )


def _of_pair(one: Loss, size: int) -> Loss:
    pair = None if one.epsilon is None else group_pair(one.epsilon.value, one.delta.value, size=size)
    if one.epsilon is None or pair is None:
        return Loss(epsilon=None, delta=one.delta, basis=_LEMMA, missing=one.missing or _NO_BOUND)
    epsilon, delta = pair
    source = one.epsilon.source.model_copy(
        update={"field": "epsilon, delta", "method": f"epsilon of a group of {size}"}
    )
    grown = source.model_copy(update={"method": f"delta of a group of {size}"})
    return Loss(
        epsilon=Figure(value=epsilon, kind="epsilon", source=source),
        delta=Figure(value=delta, kind="delta up", source=grown),
        basis=_LEMMA,
    )
