"""Discrete Gaussian noise by OpenDP, and the threshold that hides what one unit alone brings in.

OpenDP samples exactly, in integers and fractions (Canonne, Kamath and Steinke 2020, algorithm 3), from the operating
system's randomness: neither rounding of floating-point numbers nor a seed can give the noise away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

_LARGEST = 2**62  # sums are clamped here, which moves no two of them further apart, so that none wraps in 64 bits


def rho_of(*, sensitivity_squared: int, scale: float) -> Fraction:
    """Return the zCDP parameter of the Gaussian mechanism, exactly: squared sensitivity over twice the variance."""
    return Fraction(sensitivity_squared) / (2 * Fraction(scale) ** 2)


def scale_for(*, sensitivity_squared: int, rho: float) -> float:
    """Return the least standard deviation, as a float, whose zCDP parameter is not above rho."""
    scale = math.sqrt(sensitivity_squared / (2 * rho))
    while rho_of(sensitivity_squared=sensitivity_squared, scale=scale) > Fraction(rho):
        scale = math.nextafter(scale, math.inf)
    return scale


def rounded_up(number: Fraction) -> float:
    """Return the least float that is not below a fraction."""
    near = float(number)
    return near if Fraction(near) >= number else math.nextafter(near, math.inf)


def noised(sums: Sequence[int], *, scale: float, sensitivity_squared: int) -> tuple[list[int], float]:
    """Add independent discrete Gaussian noise to each of some exact sums.

    Args:
        sums: what to release.
        scale: parameter sigma of the noise, whose standard deviation is at most that.
        sensitivity_squared: squared L2 sensitivity of `sums`.

    Returns:
        The noisy sums, and the zCDP parameter that OpenDP gives for them.

    Raises:
        ValueError: the scale is not a positive number; OpenDP would add no noise for 0.
    """
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"noise needs a positive scale, found {scale!r}")
    dp = _opendp()
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T=float)
    measurement = dp.m.make_gaussian(*space, scale=scale)
    distance = math.sqrt(sensitivity_squared)
    while Fraction(distance) ** 2 < sensitivity_squared:
        distance = math.nextafter(distance, math.inf)
    clamped = [min(max(value, -_LARGEST), _LARGEST) for value in sums]
    return list(measurement(clamped)) if clamped else [], float(measurement.map(distance))


def _opendp() -> Any:
    import opendp.prelude as dp  # type: ignore[import-untyped,unused-ignore]

    dp.enable_features("contrib")
    return dp


def chance_above(threshold: int, *, scale: float) -> float:
    """Return a bound on the chance that discrete Gaussian noise is `threshold` or more.

    Of its probability f(x) / sum of f over all integers, with f(x) = exp(-x^2 / (2 scale^2)), the denominator is at
    least sqrt(2 pi) scale by Poisson summation, and f falls above 0, so that a sum from t on is at most the integral
    from t - 1 on: the chance is at most that of a Gaussian to exceed t - 1.

    Args:
        threshold: at least 1.
        scale: parameter sigma of the noise.
    """
    from scipy.stats import norm  # type: ignore[import-untyped]

    if threshold < 1:
        raise ValueError("the bound holds for thresholds from 1 on")
    return float(norm.sf((threshold - 1) / scale))


def threshold_for(*, distance: float, bound: int, scale: float) -> int:
    """Return the least count from which on a value may be released.

    A unit brings in at most `bound` values that no other unit has, each with a count of 1. If none of them reaches the
    threshold, the release is that of the values which others have too, which is covered by the noise. So the release
    is within `bound` times the chance that 1 plus noise reaches the threshold, in total variation, of a release that
    is; with this threshold that is at most `distance` (Korolova et al. 2009, "Releasing Search Queries and Clicks
    Privately"; Google 2020, "Delta for thresholding").

    Args:
        distance: total variation distance that may be paid.
        bound: contribution bound.
        scale: parameter sigma of the noise.
    """
    from scipy.stats import norm

    threshold = max(2, math.floor(2 + scale * float(norm.isf(distance / bound))) - 1)
    while bound * chance_above(threshold - 1, scale=scale) > distance:
        threshold += 1
    return threshold
