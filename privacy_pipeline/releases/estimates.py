"""What noisy sums say: numbers with confidence intervals that hold both sampling error and noise.

Everything here is computed from released numbers and public facts, so it costs nothing (post-processing).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from privacy_pipeline.releases.queries import UNIT_OF_FIXED_POINT, Histogram, Moments
from privacy_pipeline.releases.release import Noisy

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and a two-sided confidence interval.

    Attributes:
        value: the estimate; None where the noise leaves nothing to divide by.
        low, high: ends of the interval.
        confidence: nominal coverage.
    """

    value: float | None
    low: float
    high: float
    confidence: float = CONFIDENCE


def count(noisy: float, *, scale: float, confidence: float = CONFIDENCE) -> Interval:
    """Rows of the split: noise is the only error of a count of this very split.

    Args:
        noisy: noisy count.
        scale: standard deviation of its noise.
        confidence: nominal coverage.
    """
    # Half a row for the steps of a discrete distribution.
    reach = _z(confidence) * scale + 0.5
    return Interval(
        value=max(0.0, noisy), low=max(0.0, noisy - reach), high=max(0.0, noisy + reach), confidence=confidence
    )


def ratio(
    hits: Sequence[float], misses: Sequence[float], *, scale: float, bound: int = 1, confidence: float = CONFIDENCE
) -> Interval:
    """A proportion p, of the population that the rows are a sample of, from noisy counts of hits and misses.

    Wilson's interval (1927) with the variance of the noise added, that is, Fieller's interval (1954): all p for which
    h - p n, with h the noisy hits, m the noisy misses, n = h + m, lies within z standard deviations of 0. Its variance
    is n p (1 - p) from sampling, and scale^2 (a (1 - p)^2 + b p^2) from the noise on a cells of hits and b of misses.
    Rows of one unit may be alike, which multiplies the first part by at most the contribution bound.

    Args:
        hits: noisy counts whose sum is the numerator.
        misses: the other noisy counts of the denominator.
        scale: standard deviation of the noise on each count.
        bound: contribution bound.
        confidence: nominal coverage.

    Returns:
        An interval within [0, 1]; all of it where the noise leaves nothing to be said.
    """
    hit, n, variance = math.fsum(hits), math.fsum((*hits, *misses)), scale**2
    z2, a, b = _z(confidence) ** 2, len(hits), len(misses)
    nothing = Interval(value=None, low=0.0, high=1.0, confidence=confidence)
    if n <= 0:
        return nothing
    ends = _solve(
        n**2 + z2 * (bound * n - variance * (a + b)),
        -2 * hit * n - z2 * (bound * n - 2 * variance * a),
        hit**2 - z2 * variance * a,
    )
    if ends is None or ends[0] >= 1 or ends[1] <= 0:
        return nothing
    low, high = max(0.0, ends[0]), min(1.0, ends[1])
    return Interval(value=min(max(hit / n, low), high), low=low, high=high, confidence=confidence)


def mean(noisy: Noisy, *, bound: int = 1, confidence: float = CONFIDENCE) -> Interval:
    """Mean of the clamped values, of the population that the rows are a sample of.

    As `ratio`, for values that are moved and scaled to [-1, 1]: s - m n has the noise's variance scale^2 (1 + m^2), and
    at most n (1 - m^2) from sampling (Bhatia and Davis 2000), so that no second moment has to be released.

    Args:
        noisy: answer to a `Moments` query.
        bound: contribution bound.
        confidence: nominal coverage.

    Returns:
        An interval within the query's range; all of it where the noise leaves nothing to be said.
    """
    query = noisy.query
    if not isinstance(query, Moments):
        raise TypeError(f"a mean needs the answer to a Moments query, not to {query}")
    total, n = (noisy.values[cell] / UNIT_OF_FIXED_POINT for cell in ("sum", "count"))
    z2, variance = _z(confidence) ** 2, (noisy.scale / UNIT_OF_FIXED_POINT) ** 2
    nothing = Interval(value=None, low=query.minimum, high=query.maximum, confidence=confidence)
    if n <= 0:
        return nothing
    ends = _solve(n**2 + z2 * (bound * n - variance), -2 * total * n, total**2 - z2 * (bound * n + variance))
    if ends is None or ends[0] >= 1 or ends[1] <= -1:
        return nothing
    low, high = max(-1.0, ends[0]), min(1.0, ends[1])
    value = min(max(total / n, low), high)
    low, value, high = (query.centre + query.half_width * number for number in (low, value, high))
    return Interval(value=value, low=low, high=high, confidence=confidence)


def total(noisy: Noisy, *, confidence: float = CONFIDENCE) -> Interval:
    """Sum of the clamped values of this split: noise is the only error.

    Args:
        noisy: answer to a `Moments` query.
        confidence: nominal coverage.
    """
    query = noisy.query
    if not isinstance(query, Moments):
        raise TypeError(f"a sum needs the answer to a Moments query, not to {query}")
    centred, n = (noisy.values[cell] / UNIT_OF_FIXED_POINT for cell in ("sum", "count"))
    value = query.half_width * centred + query.centre * n
    scale = noisy.scale / UNIT_OF_FIXED_POINT * math.hypot(query.half_width, query.centre)
    # Fixed point rounds each value by up to half a step.
    reach = _z(confidence) * scale + max(0.0, n) * query.half_width / (2 * UNIT_OF_FIXED_POINT)
    return Interval(value=value, low=value - reach, high=value + reach, confidence=confidence)


def quantile(noisy: Noisy, share: float) -> float:
    """A quantile, to within an interval between edges.

    Args:
        noisy: answer to a `Histogram` query.
        share: from 0 to 1.

    Returns:
        A number between the first and the last edge, linear within an interval.
    """
    query = noisy.query
    if not isinstance(query, Histogram):
        raise TypeError(f"a quantile needs the answer to a Histogram query, not to {query}")
    counts = [max(0, noisy.values[cell]) for cell in query.cells]
    below, edges = share * sum(counts), query.edges
    if below <= counts[0]:
        return edges[0]
    seen = counts[0]
    for (low, high), inside in zip(itertools.pairwise(edges), counts[1:-1], strict=True):
        if inside and seen + inside >= below:
            return low + (high - low) * (below - seen) / inside
        seen += inside
    return edges[-1]


def value_range(noisy: Noisy, *, confidence: float = 1 - 1e-3) -> tuple[float, float] | None:
    """A range that holds nearly all values: from the first interval that surely holds any to the last.

    An interval counts if its noisy count is one that no empty interval has, with the given confidence for all intervals
    together. So what is left outside is at most a few times the noise in each of the outer intervals.

    Args:
        noisy: answer to a `Histogram` query.
        confidence: chance that no empty interval counts.

    Returns:
        Lower edge of the first such interval and upper edge of the last; None where there is none.
    """
    query = noisy.query
    if not isinstance(query, Histogram):
        raise TypeError(f"a range needs the answer to a Histogram query, not to {query}")
    least = 1 + noisy.scale * _tail((1 - confidence) / len(query.cells))
    held = [index for index, cell in enumerate(query.cells) if noisy.values[cell] >= least]
    if not held:
        return None
    edges = query.edges
    return edges[max(held[0] - 1, 0)], edges[min(held[-1], len(edges) - 1)]


def vocabulary(noisy: Noisy, *, most: int) -> tuple[str, ...]:
    """The most frequent values, by noisy count, ties in alphabetical order.

    Args:
        noisy: answer to a `Vocabulary` query.
        most: how many.
    """
    ranked = sorted(noisy.values, key=lambda value: (-noisy.values[value], value))
    return tuple(ranked[:most])


def rates(confusion: Mapping[str, float], *, scale: float, bound: int = 1) -> dict[str, Interval]:
    """Accuracy, precision and recall from noisy confusion counts.

    Args:
        confusion: noisy counts `tp`, `fp`, `tn` and `fn`.
        scale: standard deviation of the noise on each.
        bound: contribution bound.
    """
    tp, fp, tn, fn = (confusion[name] for name in ("tp", "fp", "tn", "fn"))
    return {
        "accuracy": ratio((tp, tn), (fp, fn), scale=scale, bound=bound),
        "precision": ratio((tp,), (fp,), scale=scale, bound=bound),
        "recall": ratio((tp,), (fn,), scale=scale, bound=bound),
    }


def linear_edges(minimum: float, maximum: float, *, intervals: int) -> tuple[float, ...]:
    """Public edges of equal distance."""
    return tuple(minimum + (maximum - minimum) * index / intervals for index in range(intervals + 1))


def logarithmic_edges(*, smallest: int = -20, largest: int = 40) -> tuple[float, ...]:
    """Public edges for numbers of any size: 0 and the powers of two, of both signs.

    Args:
        smallest: exponent of the smallest.
        largest: exponent of the largest.
    """
    powers = [2.0**exponent for exponent in range(smallest, largest + 1)]
    return (*(-power for power in reversed(powers)), 0.0, *powers)


def _solve(a: float, b: float, c: float) -> tuple[float, float] | None:
    """Where a x^2 + b x + c <= 0 for a > 0; None where that is no bounded interval."""
    square = b**2 - 4 * a * c
    if a <= 0 or square < 0:
        return None
    root = math.sqrt(square)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def _z(confidence: float) -> float:
    return _tail((1 - confidence) / 2)


def _tail(chance: float) -> float:
    from scipy.stats import norm  # type: ignore[import-untyped]

    return float(norm.isf(chance))
