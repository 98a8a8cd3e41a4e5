"""The attack reading of a guarantee: what a guess could gain.

An attacker who sees everything released guesses whether one privacy unit was in the data. Under (epsilon, delta)-DP the
true-positive rate of any such guess is bounded by its false-positive rate (Kairouz, Oh and Viswanath 2015, "The
Composition Theorem for Differential Privacy", theorem 2.1). A whole curve of (epsilon, delta) gives the least of the
bounds of its points (Dong, Roth and Su 2022, "Gaussian Differential Privacy", proposition 2.12).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

FALSE_POSITIVE_RATES = (0.01, 0.1)


def true_positive_rate(curve: Iterable[tuple[float, float]], *, false_positive_rate: float) -> float:
    """Return the highest true-positive rate that any attack can have.

    Args:
        curve: (epsilon, delta) points that all hold at once; without points there is no bound.
        false_positive_rate: rate at which the attack accuses units that were not in the data.
    """
    rate, best = false_positive_rate, 1.0
    for epsilon, delta in curve:
        if math.isfinite(epsilon) and epsilon < 700:  # above that exp overflows, and the bound is trivial
            best = min(best, math.exp(epsilon) * rate + delta, 1 - math.exp(-epsilon) * (1 - delta - rate))
    return max(rate, best)
