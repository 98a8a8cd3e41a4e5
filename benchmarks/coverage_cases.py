"""A case of a claim on intervals or gates, and the noise and the count of errors that cases share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from privacy_pipeline.confidence import Sampling, drops
from privacy_pipeline.releases import estimates

Floats = NDArray[np.float64]
Random = np.random.Generator
LEVEL_OF_AN_END = (1 - estimates.CONFIDENCE) / 2


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case of a claim.

    Attributes:
        claim: what is claimed.
        most: chance of an error, at most, by the claim.
        found: the measured chance, or the exact one where `samples` is 0.
        samples: number of samples.
        where: the case in words.
        again: repeats this case with a generator and a number of samples.
    """

    claim: str
    most: float
    found: float
    samples: int
    where: str
    again: Callable[[Random, int], Iterator[Case]] | None = field(default=None, repr=False, compare=False)

    def looked_at_again(self, random: Random, samples: int) -> Case:
        """Return the same case with other random numbers, or itself if it is exact."""
        if self.again is None:
            return self
        return next(
            case for case in self.again(random, samples) if (case.claim, case.where) == (self.claim, self.where)
        )

    def above_chance(self, cases: int) -> bool:
        """Whether chance alone gives this many errors in at most one of 1,000 tables with this many cases."""
        if self.samples == 0:
            return self.found > self.most * (1 + 1e-9)
        errors = round(self.found * self.samples)
        return bool(binom.sf(errors - 1, self.samples, self.most) < 1e-3 / cases)


def discrete_gaussian(random: Random, scale: float, size: Any) -> Floats:
    """Return discrete Gaussian noise by inversion."""
    reach = math.ceil(12 * scale) + 2
    numbers = np.arange(-reach, reach + 1)
    cumulated = np.cumsum(pmf(scale, reach))
    return numbers[np.minimum(np.searchsorted(cumulated, random.random(size)), numbers.size - 1)].astype(np.float64)


def pmf(scale: float, reach: int) -> Floats:
    """Return the probabilities of discrete Gaussian noise from -reach to reach."""
    weights = np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / (2 * scale**2))
    return weights / weights.sum()


def by_outcome(outcomes: Sequence[Floats], decide: Callable[..., NDArray[Any]]) -> NDArray[Any]:
    """Return `decide` of each sample; call it once for equal samples."""
    kinds, place = np.unique(np.stack(outcomes, axis=1), axis=0, return_inverse=True)
    return decide(*kinds.T)[place.reshape(-1)]


def missed(hits: Floats, misses: Floats, share: float, *, sampling: Sampling) -> tuple[float, float]:
    """Return how often the lower end lies above a share, and the upper end below it."""

    def ends(h: Floats, m: Floats) -> NDArray[np.bool_]:
        some = h + m > 0  # else there is no interval
        found = np.zeros((h.size, 2), bool)
        found[some, 0] = drops(h[some], m[some], share, sampling=sampling, level=LEVEL_OF_AN_END)
        found[some, 1] = drops(m[some], h[some], 1 - share, sampling=sampling.swapped(), level=LEVEL_OF_AN_END)
        return found

    low, high = by_outcome((hits, misses), ends).mean(axis=0)
    return float(low), float(high)
