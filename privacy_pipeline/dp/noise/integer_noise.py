"""Noise of whole numbers, Skellam or discrete Gaussian, from ChaCha20 by inversion of a table of 256 bits.

The distribution's weights are computed as big integers, added up, and scaled to 2^256; a number comes from where a
uniform number of 256 bits falls. Only its first 64 bits are drawn, but for the one case in about 2^50 in which they
decide nothing. How far a draw is from the distribution, in total variation, is bounded by `DISTANCE`:

- the table ends where each tail holds less than 2^-240 (Chernoff's bound; for the discrete Gaussian Canonne, Kamath and
  Steinke 2020, proposition 25: P(X >= k) is at most that of a Gaussian's X >= k - 1), below 2^20 each side;
- discrete Gaussian weights w_k = exp(-k^2 / (2 v)) come from w_{k+1} = w_k q^(2k+1), rounded down at 2^-320: the k-th
  is off by less than k^2 2^-320, all of them by less than 2^-258;
- Skellam weights I_k(v) come from I_{k-1} = I_{k+1} + (2k/v) I_k, downwards (Miller's algorithm): all terms are
  positive, so that roundings do not grow, and starting from 0 above the last weight moves each probability by less than
  that of the first one left out, all of them by less than 2^-218;
- sums are rounded down at 2^-256.

The sampler has no other limits: no float decides a draw. The distribution's parameter is a float, and means that float.
That ChaCha20 is as good as random bits is assumed, as everywhere in this package; timing is not covered.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.mechanism.mechanism import require
from privacy_pipeline.dp.noise.integer_families import FAMILIES
from privacy_pipeline.dp.noise.noise import keystream

DISTANCE = 2.0**-200
LARGEST_VARIANCE = 2.0**31

_TAIL_BITS = 240
_BITS = 256
_FIRST = 64
_REST_BYTES = (_BITS - _FIRST) // 8


@dataclass(frozen=True)
class _Table:
    """Where the numbers begin among 2^256 uniform ones: the number `least + j` from edge j - 1 to edge j.

    Attributes:
        least: the smallest number.
        edges: ascending.
        first: the first 64 bits of each.
    """

    least: int
    edges: list[int]
    first: NDArray[np.uint64]


def _last(family: str, variance: float) -> int:
    """Return a number that is reached, upwards, with a chance below 2^-240."""
    wanted = _TAIL_BITS * math.log(2)

    def rare(number: int) -> bool:
        return FAMILIES[family].tail(number, variance) > wanted

    high = 2
    while not rare(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if rare(middle) else (middle, high)
    return high


@lru_cache(maxsize=4)
def _table(family: str, variance: float) -> _Table:
    # Discrete Gaussian weights of small variances fall below 2^-320 before the last number.
    half = [weight for weight in FAMILIES[family].weights(variance, _last(family, variance)) if weight]
    total = 2 * sum(half) - half[0]
    sums = accumulate(half[:0:-1] + half[:-1])
    edges = [(value << _BITS) // total for value in sums]
    first = np.array([edge >> (_BITS - _FIRST) for edge in edges], np.uint64)
    return _Table(least=1 - len(half), edges=edges, first=first)


@dataclass(frozen=True)
class IntegerNoise:
    """Independent numbers of one distribution around 0, as a function of key, purpose and step.

    Attributes:
        family: "skellam", of the given variance; or "discrete_gaussian", N_Z(0, variance), whose own variance is at
            most that (Canonne, Kamath and Steinke 2020).
        variance: parameter of the distribution, above 0 and at most `LARGEST_VARIANCE`.

    Raises:
        BadInputError: the variance is out of range.
    """

    family: str
    variance: float

    def __post_init__(self) -> None:
        require(self.family in FAMILIES, f"unknown noise of whole numbers {self.family!r}", ", ".join(FAMILIES))
        allowed = 0 < self.variance <= LARGEST_VARIANCE
        require(allowed, f"the variance must lie in (0, {LARGEST_VARIANCE:g}], found {self.variance!r}")

    @property
    def generator(self) -> str:
        """What the noise comes from, for the record."""
        name = self.family.replace("_", " ")
        distance = round(math.log2(DISTANCE))
        return (
            f"ChaCha20 with a 256-bit key; {name} by inversion of a 256-bit table of big integers, each draw within "
            f"total variation 2^{distance} of the distribution"
        )

    def draw(self, key: RunKey, purpose: str, step: int, size: int) -> NDArray[np.int64]:
        """Return numbers, int64, [size].

        Args:
            key: the run's key.
            purpose: what the numbers are for; other purposes and steps give independent ones.
            step: number of the step, from 0 on.
            size: how many.
        """
        table, stream = _table(self.family, self.variance), keystream(key.derive(purpose, 32), step)
        uniform = np.frombuffer(stream.update(bytes(8 * size)), "<u8").astype(np.uint64, copy=False)
        place = np.searchsorted(table.first, uniform, side="right")
        # Below an edge with the same first bits lies what the other bits have to decide.
        open_ = np.flatnonzero((place > 0) & (table.first[np.maximum(place, 1) - 1] == uniform))
        for index in open_:
            rest = int.from_bytes(stream.update(bytes(_REST_BYTES)), "little")
            place[index] = bisect_right(table.edges, int(uniform[index]) << (_BITS - _FIRST) | rest)
        return place + np.int64(table.least)
