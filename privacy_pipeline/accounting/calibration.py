"""The least noise that meets a target epsilon."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from privacy_pipeline.accounting.accountants import epsilon_of
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.errors import BadInputError

if TYPE_CHECKING:
    from dp_accounting import DpEvent

_LEAST_NOISE = 2.0**-6
_MOST_NOISE = 2.0**20
_MOST_LOOKS = 200


def calibrate_noise_multiplier(
    make_event: Callable[[float], DpEvent],
    *,
    target_epsilon: float,
    delta: float,
    relation: Relation,
    tolerance: float = 1e-3,
) -> float:
    """Return the smallest noise multiplier, to within `tolerance`, whose headline epsilon is at most the target.

    The number given back was itself put to the accountant, so its epsilon is never above the target, even where
    rounding makes the accountant's epsilon not quite monotone in the noise.

    Args:
        make_event: the event that a noise multiplier implies; more noise must mean less epsilon.
        target_epsilon: epsilon that may not be exceeded.
        delta: delta of the guarantee.
        relation: neighbouring relation.
        tolerance: width at which the search stops, in units of the noise multiplier.

    Raises:
        BadInputError: the numbers are out of range, or no noise multiplier meets the target.
        AccountingError: no accountant supports the event.
    """
    for name, value in (("target_epsilon", target_epsilon), ("tolerance", tolerance)):
        if not (value > 0 and math.isfinite(value)):
            raise BadInputError(f"{name} must be a positive number, found {value!r}")

    def epsilon(noise: float) -> float:
        return epsilon_of(make_event(noise), delta=delta, relation=relation)

    found = least_noise_by_curve(epsilon, target=target_epsilon, tolerance=tolerance)
    if found is None:
        raise BadInputError(
            f"no noise multiplier reaches epsilon {target_epsilon:g} at delta {delta:g}",
            fix="raise target_epsilon or delta, or train for fewer epochs",
        )
    if found <= _LEAST_NOISE:
        raise BadInputError(
            f"target_epsilon {target_epsilon:g} at delta {delta:g} is met with next to no noise",
            fix="lower target_epsilon, or give noise_multiplier yourself",
        )
    return found


def least_noise(meets: Callable[[float], bool], *, tolerance: float = 1e-3) -> float | None:
    """Return the smallest noise multiplier, to within `tolerance`, that meets a condition; itself put to it.

    Args:
        meets: the condition; more noise must not break it.
        tolerance: width at which the search stops, in units of the noise multiplier.

    Returns:
        The noise multiplier, 2^-6 where even less would do; None where none up to 2^20 does.
    """
    return least_noise_by_curve(lambda noise: 0.0 if meets(noise) else math.inf, target=1.0, tolerance=tolerance)


def least_noise_by_curve(epsilon: Callable[[float], float], *, target: float, tolerance: float) -> float | None:
    """Return the smallest noise multiplier, to within `tolerance`, whose epsilon is at most the target, in few looks.

    Over a small range the logarithm of epsilon is nearly linear in that of the noise, so each look shows where the next
    one should be: a little to the side of the crossing that is not bounded yet. A look that leaves the bracket, or one
    too many, is replaced by bisection.
    """
    low, high = _LEAST_NOISE / 2, math.inf  # epsilon is above the target at low (nobody asks there), not at high
    points: list[tuple[float, float]] = []
    noise = 1.0
    for look in range(_MOST_LOOKS):
        value = epsilon(noise)
        if value <= target:
            high = noise
        else:
            low = noise
        if value > 0 and math.isfinite(value):
            points.append((math.log(noise), math.log(value)))
        if high <= _LEAST_NOISE or high - low <= tolerance:
            return high
        if low >= _MOST_NOISE:
            return None
        crossing = _crossing(points, math.log(target))
        if crossing is not None:
            # A little beyond the crossing, on the side that has no near bound yet.
            noise = crossing + (tolerance / 4 if high - crossing > tolerance / 2 else -tolerance / 4)
        if crossing is None or not low < noise < high or look % 8 == 7:
            noise = low * 4 if high == math.inf else (low + high) / 2
        noise = min(max(noise, _LEAST_NOISE), _MOST_NOISE)
    return high if high < math.inf else None


def _crossing(points: list[tuple[float, float]], aim: float) -> float | None:
    """Return the noise at which the line through the last two points (logarithms of noise, epsilon) reaches the aim."""
    if not points:
        return None
    (x, y), slope = points[-1], -1.0
    if len(points) > 1 and x != points[-2][0]:
        slope = (y - points[-2][1]) / (x - points[-2][0])
    if slope >= -1e-3:
        return None
    return math.exp(min(x + (aim - y) / slope, math.log(_MOST_NOISE)))
