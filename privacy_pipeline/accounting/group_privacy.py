"""What a guarantee for one unit implies for a group of k: a person with k rows where the unit is a row.

From one dataset to the one without the group it is k steps between neighbours, under either relation. A mechanism that
is (epsilon, delta)-DP for one step is (k epsilon, delta (e^(k epsilon) - 1) / (e^epsilon - 1))-DP for k of them
(Vadhan 2017, "The Complexity of Differential Privacy", lemma 2.2). That needs nothing of the mechanism, so it holds for
every event and for every composition of events; for Gaussian noise alone, whose sensitivity grows with k, it is loose.
"""

from __future__ import annotations

import math
from collections.abc import Callable

_LEAST = 1e-280
_HALVINGS = 200


def group_pair(epsilon: float, delta: float, *, size: int) -> tuple[float, float] | None:
    """Return one pair for a group.

    Args:
        epsilon, delta: of one unit.
        size: units of the group, at least 1.

    Returns:
        Epsilon and delta of the group; None where no delta below 1 is left: there is no bound.
    """
    grown = size * epsilon
    if not math.isfinite(grown) or grown > 700:
        return None
    factor = math.expm1(grown) / math.expm1(epsilon) if epsilon > 0 else float(size)
    total = delta * factor
    return (grown, total) if total < 1 else None


def group_epsilon(curve: Callable[[float], float], delta: float, *, size: int) -> float:
    """Return a group's epsilon at a delta, from one unit's whole curve: its best pair that ends at that delta.

    Args:
        curve: epsilon of one unit at a delta.
        delta: delta of the group.
        size: units of the group, at least 1.

    Returns:
        Epsilon; infinite where no point of the curve gives one.
    """

    def fits(at: float) -> bool:
        pair = group_pair(curve(at), at, size=size)
        return pair is not None and pair[1] <= delta

    low, high = _LEAST, delta
    if fits(high):
        return size * curve(high)
    if not fits(low):
        return math.inf
    for _ in range(_HALVINGS):  # `low` always fits, so that what is returned is a bound whatever the curve's shape
        middle = math.sqrt(low) * math.sqrt(high)
        if not low < middle < high:
            break
        low, high = (middle, high) if fits(middle) else (low, middle)
    return size * curve(low)
