"""The rule by which the ledger grants or refuses: a Renyi filter of one fixed order.

A later run is chosen after the results of earlier ones were seen, and so is its cost. For such fully adaptive
composition the sum of Renyi divergences at ONE order, fixed beforehand, may be held against a bound (Feldman and Zrnic
2021, "Individual Privacy Accounting via a Renyi Filter", theorem 4.3; Lecuyer 2021, "Practical Privacy Filters and
Odometers with Renyi Differential Privacy"). Taking the best order anew at every request is not covered by that: which
order survives then depends on earlier outputs, and over K orders delta can grow up to K-fold (filters are free only
where the mechanisms' profiles are totally ordered, arXiv 2602.15815). So a budget's order is fixed by the plan of its
first run, before any output exists: the order at which most copies of that plan fit the cap. For runs of one kind,
and for Gaussian runs of any size, nothing is lost against the best order.

The epsilon of a fixed set of runs is still stated at its best order (`accountants.epsilon_from_rdp`): it is never
above the filter's figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from privacy_pipeline.accounting.accountants import epsilon_at_order

MOST_RUNS = 1_000_000


def total(vectors: Iterable[Sequence[float]], *, length: int) -> tuple[float, ...]:
    """Sum of Renyi vectors, order by order, rounded once: the sum does not depend on the order of the entries."""
    columns = list(zip(*vectors, strict=True))
    return tuple(math.fsum(column) for column in columns) if columns else (0.0,) * length


def allowance(order: float, *, epsilon: float, delta: float) -> float:
    """Renyi divergence at `order` that still gives (epsilon, delta); negative or -inf where none does."""
    return epsilon - epsilon_at_order(order, 0.0, delta)


def choose_order(
    orders: Sequence[float], spent: Sequence[float], cost: Sequence[float], *, epsilon: float, delta: float
) -> float:
    """The order at which most copies of a run fit beside what is spent.

    Args:
        orders: Renyi orders.
        spent: divergences of all counted entries; zeros where the order is chosen before the first run.
        cost: divergences of the run.
        epsilon: the cap's epsilon.
        delta: the cap's delta.
    """

    def copies(index: int) -> float:
        room = allowance(orders[index], epsilon=epsilon, delta=delta) - spent[index]
        # A plan that costs nothing says nothing about the order: then take the one that suits Gaussians.
        return room / max(cost[index], 1e-12 * orders[index])

    finite = [i for i, order in enumerate(orders) if order > 1.01 and math.isfinite(cost[i] + spent[i])]
    return orders[max(finite, key=copies, default=len(orders) - 1)]


def filter_epsilon(orders: Sequence[float], values: Sequence[float], *, order: float, delta: float) -> float:
    """Epsilon of a sum at the filter's order: what is held against the cap."""
    return max(0.0, epsilon_at_order(order, values[list(orders).index(order)], delta))


def floor_fixed(room: float) -> int:
    """An allowance of 0 or more as a fixed-point integer of `totals`, rounded down: never more than is allowed."""
    numerator, denominator = room.as_integer_ratio()
    return (numerator << 64) // denominator


def runs_that_fit(spent: float, cost: float, *, room: float) -> int:
    """How many runs of one cost fit beside what is spent, all at the filter's order.

    Args:
        spent: divergence of all counted entries.
        cost: divergence of one run.
        room: the cap's allowance.
    """
    if spent > room or cost > room - spent:
        return 0
    if cost <= 0:
        return MOST_RUNS
    return int(min(MOST_RUNS, (room - spent) // cost))
