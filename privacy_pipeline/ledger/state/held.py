"""The number that counts against a budget's cap: the cost of all counted entries at the filter's fixed order.

The cap is enforced at one Renyi order, with the cap's delta less the share that is kept for truncation (`renyi_filter`,
`truncation`). Only that number shows how much room is left. The epsilon at the best order, and that by PLD, are below
it; but the best order is known only afterwards, so they are proven for a set of runs that was fixed beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from privacy_pipeline.accounting import truncation
from privacy_pipeline.accounting.renyi import ORDERS
from privacy_pipeline.ledger.state import renyi_filter

if TYPE_CHECKING:
    from privacy_pipeline.ledger.state.entries import Cost

_ROUNDING = 1e-9  # relative: what two runs pay for truncation is added in another order when compared with delta


def filter_delta(budget: Mapping[Any, Any]) -> float:
    """Return the budget's delta without the share that is kept for truncation."""
    return float(budget["delta"]) * (1 - truncation.SHARE)


def enforced_epsilon(
    spent: Cost, *, order: float | None, epsilon: float, delta: float, ceiling: float | None = None
) -> float:
    """Return the epsilon that counts against a cap.

    Args:
        spent: sum of all counted entries.
        order: the filter's order; None where no run fixed one: then the best one, which the next run might not choose.
        epsilon: the cap's epsilon.
        delta: the cap's delta.
        ceiling: the epsilon at which failures are priced; the cap's where no run that may fail fixed one.

    Returns:
        0 where nothing is spent; infinite where there is no bound, or truncation costs more of delta than is kept for
        it. Above `epsilon` only where an entry executed more than it planned, or the cap was lowered.
    """
    if not any(spent.values) and spent.distance <= 0:
        return 0.0
    at, kept = filter_delta({"delta": delta}), delta * truncation.SHARE * (1 + _ROUNDING)
    orders = ORDERS if order is None else (order,)
    held = min(renyi_filter.filter_epsilon(ORDERS, spent.values, order=one, delta=at) for one in orders)
    priced_at = max(held, epsilon if ceiling is None else ceiling)
    if math.isfinite(held) and truncation.paid(spent.distance, epsilon=priced_at) > kept:
        return math.inf
    return held


def against_cap(held: float, cap: float) -> str:
    """Return what is held, of the cap, for people: "3.900 of 10.000".

    Held is rounded up and the cap down, but what is within the cap is never shown above it, nor the other way round.
    """
    whole = math.floor(cap * 1000 + 1e-9)
    if math.isinf(held):
        return f"no finite epsilon of {whole / 1000:.3f}"
    up = math.ceil(held * 1000)
    up = min(up, whole) if held <= cap else max(up, whole + 1)
    return f"{up / 1000:.3f} of {whole / 1000:.3f}"


def used_part(spent: Cost, *, order: float | None, epsilon: float, delta: float, ceiling: float | None = None) -> float:
    """Return the used part of the cap's room, from 0 to 1; above 1 where the cap is passed, infinite without a bound.

    An order takes part of epsilon by itself, whatever runs: `enforced_epsilon` is well above 0 after the smallest run.
    What of the rest is used grows with the runs alone, as do the shares of a policy.
    """
    held = enforced_epsilon(spent, order=order, epsilon=epsilon, delta=delta, ceiling=ceiling)
    if held <= 0 or math.isinf(held):
        return held
    at = filter_delta({"delta": delta})

    def part(one: float, divergence: float) -> float:
        room = renyi_filter.allowance(one, epsilon=epsilon, delta=at)
        return divergence / room if room > 0 else math.inf

    pairs = zip(ORDERS, spent.values, strict=True)
    return min(part(one, value) for one, value in pairs if order is None or one == order)
