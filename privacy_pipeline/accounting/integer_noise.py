"""Sums of clients' integer noise shares: their events and Renyi divergences. To be imported on use: it is slow.

Each client adds a share to a vector of integers, and only the sum is seen. Two datasets that differ in one client,
which is zeroed out and adds its share all the same, give the same noise around sums that are an integer vector apart:
one of L2 norm sqrt(squared_norm) at most, and so of L1 norm min(sqrt(dimension * squared_norm), squared_norm), since
for integers |x| <= x^2. What is accounted is the noise of exactly `shares` shares: more of them, a sum modulo 2^bits
and all that follows are post-processing.

dp_accounting 0.6 has no such events. No amplification by sampling is known here: inside of a sampled event they are
refused.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dp_accounting
from dp_accounting import dp_event

_LEAST_VARIANCE = 0.25  # proposition 14 of the distributed discrete Gaussian asks for sigma >= 1/2


@dataclass(frozen=True)
class _Shares(dp_event.DpEvent):
    share_variance: float
    shares: int
    dimension: int
    squared_norm: int

    @property
    def variance(self) -> float:
        """Of the noise in each number of the sum."""
        return self.shares * self.share_variance

    @property
    def l1(self) -> int:
        """Largest L1 norm of the vector by which the sum moves."""
        return min(math.isqrt(self.dimension * self.squared_norm), self.squared_norm)


@dataclass(frozen=True)
class SkellamSumDpEvent(_Shares):
    """A sum of vectors of integers with Skellam shares: each is the difference of two Poisson numbers.

    Sums of Skellam numbers are Skellam numbers, so that shares only matter through their number times their variance.

    Attributes:
        share_variance: variance of one share in each number, in squared steps of the integer grid.
        shares: shares that are accounted.
        dimension: numbers of the vector.
        squared_norm: largest squared L2 norm of one client's vector of integers.
    """


@dataclass(frozen=True)
class DiscreteGaussianSumDpEvent(_Shares):
    """A sum of vectors of integers with discrete Gaussian shares, N_Z(0, share_variance) in each number.

    Attributes:
        share_variance: parameter sigma^2 of one share, in squared steps of the integer grid.
        shares: shares that are accounted.
        dimension: numbers of the vector.
        squared_norm: largest squared L2 norm of one client's vector of integers.
    """


def skellam_divergence(event: SkellamSumDpEvent, order: float) -> float:
    """Renyi divergence of Skellam noise (Agarwal, Kairouz and Liu 2021, arXiv 2110.04995, theorem 3.5, corollary).

    For whole orders a > 1 and total variance mu it is at most
    a L2^2 / (2 mu) + min(((2a - 1) L2^2 + 6 L1) / (4 mu^2), 3 L1 / (2 mu)).
    Other orders get the value of the next whole one: Renyi divergence does not fall with the order (van Erven and
    Harremoes 2014, theorem 3).
    """
    whole, mu = math.ceil(order), event.variance
    excess = min(((2 * whole - 1) * event.squared_norm + 6 * event.l1) / (4 * mu**2), 3 * event.l1 / (2 * mu))
    return whole * event.squared_norm / (2 * mu) + excess


@functools.lru_cache(maxsize=256)
def closeness(event: DiscreteGaussianSumDpEvent) -> float:
    """Return the bound tau on how far a sum of discrete Gaussians is from one discrete Gaussian, in each number.

    10 sum_{k=1}^{n-1} exp(-2 pi^2 sigma^2 k / (k+1)) (Kairouz, Liu and Steinke 2021, arXiv 2102.06387, theorem 1).
    """
    rate = 2 * math.pi**2 * event.share_variance
    return 10 * math.fsum(math.exp(-rate * k / (k + 1)) for k in range(1, event.shares))


def discrete_gaussian_divergence(event: DiscreteGaussianSumDpEvent, order: float) -> float:
    """Renyi divergence of summed discrete Gaussians (Kairouz, Liu and Steinke 2021, arXiv 2102.06387, proposition 14).

    With s = sqrt(n) sigma, the least of a L2^2 / (2 s^2) + tau d, a/2 (L2^2 / s^2 + 2 tau L1 / s + tau^2 d) and
    a/2 (L2 / s + tau sqrt(d))^2; it is proven for sigma >= 1/2, and infinite here below that.
    """
    if event.share_variance < _LEAST_VARIANCE:
        return math.inf
    tau, dimension = closeness(event), event.dimension
    squared, deviation = event.squared_norm / event.variance, math.sqrt(event.variance)
    return min(
        order / 2 * squared + tau * dimension,
        order / 2 * (squared + 2 * tau * event.l1 / deviation + tau**2 * dimension),
        order / 2 * (math.sqrt(squared) + tau * math.sqrt(dimension)) ** 2,
    )


_DIVERGENCES: dict[type, Callable[[Any, float], float]] = {
    SkellamSumDpEvent: skellam_divergence,
    DiscreteGaussianSumDpEvent: discrete_gaussian_divergence,
}


def without_integer_noise(
    event: dp_event.DpEvent, orders: Sequence[float]
) -> tuple[dp_event.DpEvent, list[float] | None]:
    """Return an event without its sums of integer noise, and their divergences, added up at each order.

    Args:
        event: any event. Sums of integer noise inside of anything but compositions stay in it.
        orders: Renyi orders above 1.

    Returns:
        The rest, which dp_accounting is to account for, and the divergences; None where there was no such sum.
    """
    divergence = _DIVERGENCES.get(type(event))
    if divergence is not None:
        return dp_event.NoOpDpEvent(), [divergence(event, order) for order in orders]
    if isinstance(event, dp_accounting.SelfComposedDpEvent):
        inner, values = without_integer_noise(event.event, orders)
        if values is None:
            return event, None
        return dp_event.SelfComposedDpEvent(inner, event.count), [event.count * value for value in values]
    if isinstance(event, dp_accounting.ComposedDpEvent):
        parts = [without_integer_noise(part, orders) for part in event.events]
        found = [values for _, values in parts if values is not None]
        if found:
            total = [math.fsum(column) for column in zip(*found, strict=True)]
            return dp_event.ComposedDpEvent([rest for rest, _ in parts]), total
    return event, None
