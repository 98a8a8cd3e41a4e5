"""Distributions of whole numbers: weights for the sampler, moments for its check, and the event of their sums.

A distribution is added by its object and one line of `FAMILIES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dp_accounting import DpEvent

POINT = 320  # bits behind the point of a weight


@dataclass(frozen=True, kw_only=True)
class IntegerFamily:
    """A symmetric distribution around 0 with one parameter, its variance or a bound of it.

    Attributes:
        name: in configs and plans.
        weights: (parameter, last) -> multiples of the chances of 0 to `last`, times 2^320, as big integers.
        tail: (number, parameter) -> a lower bound on -log P(X >= number).
        moments: parameter -> variance and excess kurtosis in float64, computed apart from `weights`.
        sum_event: makes the event of a sum: share_variance, shares, dimension, squared_norm.
    """

    name: str
    weights: Callable[[float, int], list[int]]
    tail: Callable[[int, float], float]
    moments: Callable[[float], tuple[float, float]]
    sum_event: Callable[..., DpEvent]


def _gaussian_weights(variance: float, last: int) -> list[int]:
    """Return exp(-k^2 / (2 variance)) for k from 0 to last, times 2^320."""
    with localcontext() as context:
        context.prec = 130
        base = (-1 / (2 * Decimal(variance))).exp()
        ratio, square = (int(value * (1 << POINT)) for value in (base, base * base))
    weights = [1 << POINT]
    for _ in range(last):
        weights.append(weights[-1] * ratio >> POINT)
        ratio = ratio * square >> POINT
    return weights


def _gaussian_tail(number: int, variance: float) -> float:
    """Return (number - 1)^2 / (2 variance) (Canonne, Kamath and Steinke 2020, proposition 25)."""
    return (number - 1) ** 2 / (2 * variance)


def _gaussian_moments(parameter: float) -> tuple[float, float]:
    numbers = np.arange(1.0, 12 * math.sqrt(parameter) + 12)
    weights = np.exp(-np.square(numbers) / (2 * parameter))
    total = 1 + 2 * float(weights.sum())
    second, fourth = (2 * float((weights * numbers**power).sum()) / total for power in (2, 4))
    return second, fourth / second**2 - 3


def _gaussian_event(**sums: float) -> DpEvent:
    from privacy_pipeline.accounting.integer_noise import DiscreteGaussianSumDpEvent

    return DiscreteGaussianSumDpEvent(**sums)  # type: ignore[arg-type]


def _skellam_weights(variance: float, last: int) -> list[int]:
    """Return multiples of the modified Bessel functions I_k(variance) for k from 0 to last, by Miller's algorithm."""
    numerator, denominator = variance.as_integer_ratio()
    above, weights = 0, [1 << POINT]
    for k in range(last, 0, -1):
        below = above + 2 * k * denominator * weights[-1] // numerator
        above = weights[-1]
        weights.append(below)
    return weights[::-1]


def _skellam_tail(number: int, variance: float) -> float:
    """Return the exponent of Chernoff's bound."""
    tilt = math.asinh(number / variance)
    # cosh(tilt) - 1, written so that it does not cancel
    return number * tilt - 2 * variance * math.sinh(tilt / 2) ** 2


def _skellam_moments(parameter: float) -> tuple[float, float]:
    return parameter, 1 / parameter


def _skellam_event(**sums: float) -> DpEvent:
    from privacy_pipeline.accounting.integer_noise import SkellamSumDpEvent

    return SkellamSumDpEvent(**sums)  # type: ignore[arg-type]


SKELLAM = IntegerFamily(
    name="skellam",
    weights=_skellam_weights,
    tail=_skellam_tail,
    moments=_skellam_moments,
    sum_event=_skellam_event,
)
DISCRETE_GAUSSIAN = IntegerFamily(
    name="discrete_gaussian",
    weights=_gaussian_weights,
    tail=_gaussian_tail,
    moments=_gaussian_moments,
    sum_event=_gaussian_event,
)
FAMILIES = {family.name: family for family in (SKELLAM, DISCRETE_GAUSSIAN)}
