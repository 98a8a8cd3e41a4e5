"""Confidence limits of a share that hold in small and skewed samples: exact tails, in place of a normal approximation.

A share p of hits is sought. What is known are the hits h and the misses m, with Gaussian noise on each. Given n rows,

    (1 - p) h - p m = (hits - n p) + noise,

of which the first part has mean 0. A p is dropped from below if the chance of a value as large as the one seen is at
most `level` for it. The chance is a bound on the exact one: over the noise bin by bin at the worse end, and over
numbers of rows n that the noisy h + m leaves possible with all but a fiftieth of the level. Where each row is a hit or
not by itself, the hits are binomial: without noise the limits are those of Clopper and Pearson (1934).

Elsewhere (`simple=False`) the first part is anything that is in convex order below G (Binomial(N, p) - N p), N = n / G:
sums of values in [0, 1] with mean p, of which up to G may depend on each other (their weights are majorised by those of
N groups of G alike), or a U-statistic with kernel in [0, 1] of N pairs (Hoeffding 1963, section 5). For those
P(sum >= x) <= e P(Binomial >= x), log-linear between whole numbers (Pinelis 1998, "Optimal tail comparison based on
comparison of moments", for the class of convex functions; Bentkus 2004, "On Hoeffding's inequalities"). More rows make
more in convex order, so that the largest n is the worst.

The rows in hand, taken as they are, are covered too: n = 0 is among the sizes, which leaves the noise alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_SIZES = 5  # of n, the smallest and the largest among them
_NOISE_ENDS = np.linspace(-5, 5, 68)  # in standard deviations
_PART_FOR_SIZE = 1 / 50
_STEPS = 16  # of bisection, which ends on the wide side


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How hits and misses came about.

    Attributes:
        hit_variance: variance of the noise on the hits.
        miss_variance: variance of the noise on the misses, which is independent.
        step: distance of two values that the noise may take; 0 without noise, or where it is negligible.
        rounding: relative error of each row's value, for values in fixed point.
        group: rows at most that may depend on each other.
        simple: whether each row is a whole hit or miss. It counts for groups of 1 alone.
    """

    hit_variance: float = 0.0
    miss_variance: float = 0.0
    step: float = 0.0
    rounding: float = 0.0
    group: int = 1
    simple: bool = True

    def swapped(self) -> Sampling:
        """Return the same for misses."""
        return Sampling(
            hit_variance=self.miss_variance,
            miss_variance=self.hit_variance,
            step=self.step,
            rounding=self.rounding,
            group=self.group,
            simple=self.simple,
        )


def limits(hits: ArrayLike, misses: ArrayLike, *, sampling: Sampling, level: float) -> tuple[Floats, Floats]:
    """Return the lower and upper limit of a share; each fails with a chance of `level` at most.

    Args:
        hits: (noisy) number of hits, any shape.
        misses: number of misses, of the same shape.
        sampling: how they came about.
        level: of each limit by itself, below 1/2.

    Returns:
        The limits, in the shape of `hits`; 0 and 1 where the noise leaves no rows, or no share that fits.
    """
    h, m = np.atleast_1d(np.asarray(hits, np.float64), np.asarray(misses, np.float64))
    low, high = np.zeros_like(h), np.ones_like(h)
    some = h + m > 0
    if some.any():
        below, odd = _lower(h[some], m[some], sampling=sampling, level=level)
        above, odder = _lower(m[some], h[some], sampling=sampling.swapped(), level=level)
        low[some], high[some] = np.where(odd | odder, 0.0, below), np.where(odd | odder, 1.0, 1 - above)
    shape = np.shape(hits)
    return low.reshape(shape), high.reshape(shape)


def drops(
    hits: ArrayLike, misses: ArrayLike, share: ArrayLike, *, sampling: Sampling, level: float
) -> NDArray[np.bool_]:
    """Return whether a share is too small for what was seen.

    Args:
        hits, misses, sampling, level: as for `limits`.
        share: from 0 to 1.
    """
    h, m, p = np.broadcast_arrays(*(np.asarray(value, np.float64) for value in (hits, misses, share)))
    apart = level * _PART_FOR_SIZE if sampling.hit_variance + sampling.miss_variance > 0 else 0.0
    found: NDArray[np.bool_] = _chance(h, m, p, sampling=sampling, apart=apart) <= level - apart
    return found


def _lower(h: Floats, m: Floats, *, sampling: Sampling, level: float) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the lower limit, and where even the share that was seen does not fit."""
    low, high = np.zeros_like(h), np.clip(h / (h + m), 0, 1)
    odd = drops(h, m, high, sampling=sampling, level=level)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        dropped = drops(h, m, middle, sampling=sampling, level=level)
        low, high = np.where(dropped, middle, low), np.where(dropped, high, middle)
    return low, odd


def _chance(h: Floats, m: Floats, p: Floats, *, sampling: Sampling, apart: float) -> Floats:
    """Return a bound on the chance of this many hits or more, over all sizes but `apart`."""
    from scipy.special import ndtr  # type: ignore[import-untyped]

    variance = sampling.hit_variance + sampling.miss_variance
    reach = upper_quantile(apart / 2) * math.sqrt(variance) + sampling.step if apart else 0.0
    sizes = _sizes(h + m, reach, simple=sampling.simple and sampling.group == 1)  # [..., sizes]
    p = p[..., np.newaxis]
    deviation = np.sqrt(sampling.hit_variance * (1 - p) ** 2 + sampling.miss_variance * p**2)
    seen = (1 - p) * h[..., np.newaxis] - p * m[..., np.newaxis] - sampling.step / 2 - sampling.rounding * sizes
    ends = _NOISE_ENDS if variance else np.zeros(1)
    units = np.ceil(sizes / sampling.group)
    needed = ((seen[..., np.newaxis] - deviation[..., np.newaxis] * ends) / sampling.group) + (p * units)[
        ..., np.newaxis
    ]
    tail = _simple_tail if sampling.simple and sampling.group == 1 else _convex_tail
    chances = tail(needed, units[..., np.newaxis], p[..., np.newaxis])
    weights = np.diff(ndtr(ends), prepend=0.0) if variance else np.ones(1)
    rest = float(ndtr(-ends[-1])) if variance else 0.0
    worst: Floats = (chances @ weights).max(axis=-1) + rest
    return worst


def _sizes(total: Floats, reach: float, *, simple: bool) -> Floats:
    """Return possible numbers of rows, [..., sizes]: none, and those about the noisy total, with the largest."""
    largest: Floats = np.maximum(np.floor(total + reach + 1e-9), 0.0)
    if not simple:
        return largest[..., np.newaxis]
    smallest = np.maximum(np.ceil(total - reach - 1e-9), 0.0)
    parts = np.linspace(0, 1, _SIZES if reach else 1)
    some = np.rint(largest[..., np.newaxis] - (largest - smallest)[..., np.newaxis] * parts)
    return np.concatenate([np.zeros_like(some[..., :1]), some], axis=-1)


def _binomial_tail(least: Floats, units: Floats, p: Floats) -> Floats:
    """Return P(Binomial(units, p) >= least), for whole numbers."""
    from scipy.special import betainc

    least, units, p = np.broadcast_arrays(least, units, p)
    inside = (least >= 1) & (least <= units)
    found = np.where(least < 1, 1.0, 0.0)
    found[inside] = betainc(least[inside], units[inside] - least[inside] + 1, p[inside])
    return found


def _simple_tail(needed: Floats, units: Floats, p: Floats) -> Floats:
    # What is needed is a sum of floats; a whole number that came out a little too high is one still.
    return _binomial_tail(np.ceil(needed - 1e-7), units, p)


def _convex_tail(needed: Floats, units: Floats, p: Floats) -> Floats:
    near = np.floor(needed - 1e-7)
    low, high = (_binomial_tail(near + more, units, p) for more in (0, 1))
    part = np.clip(needed - 1e-7 - near, 0, 1)
    with np.errstate(divide="ignore"):
        between = np.exp((1 - part) * np.log(low) + np.where(part > 0, part * np.log(high), 0.0))
    found: Floats = np.minimum(1.0, math.e * between)
    return found


def two_sided(confidence: float) -> float:
    """Return the level of each limit of an interval."""
    return (1 - confidence) / 2


def normal_reach(confidence: float) -> float:
    """Return standard deviations that a Gaussian stays within."""
    return upper_quantile(two_sided(confidence))


def upper_quantile(chance: float) -> float:
    """Return standard deviations that a Gaussian exceeds with a chance."""
    from scipy.special import ndtri

    return -float(ndtri(chance))
