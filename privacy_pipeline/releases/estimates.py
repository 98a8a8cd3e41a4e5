"""Estimates from noisy sums: numbers with confidence intervals that cover both sampling error and noise.

Everything here is computed from released numbers and public facts, so it costs nothing (post-processing).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privacy_pipeline.releases.queries import UNIT_OF_FIXED_POINT, Moments
from privacy_pipeline.releases.release import Noisy

if TYPE_CHECKING:
    from privacy_pipeline.confidence import Sampling

CONFIDENCE = 0.95
_SURELY = 6.0  # standard deviations, for what decides a small part of an interval


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and a two-sided confidence interval.

    Attributes:
        value: the estimate; None where the noise leaves nothing to divide by.
        low, high: ends of the interval.
        confidence: chance at least that it holds what it is about, for each interval by itself.
    """

    value: float | None
    low: float
    high: float
    confidence: float = CONFIDENCE


def count(noisy: float, *, scale: float, confidence: float = CONFIDENCE) -> Interval:
    """Return the number of rows of the split: noise is the only error of a count of this very split.

    Args:
        noisy: noisy count.
        scale: standard deviation of its noise.
        confidence: chance at least that the interval holds the count.
    """
    from privacy_pipeline.confidence import normal_reach

    # Half a row for the steps of a discrete distribution.
    reach = normal_reach(confidence) * scale + 0.5
    return Interval(
        value=max(0.0, noisy), low=max(0.0, noisy - reach), high=max(0.0, noisy + reach), confidence=confidence
    )


def ratio(
    hits: Sequence[float], misses: Sequence[float], *, scale: float, bound: int = 1, confidence: float = CONFIDENCE
) -> Interval:
    """Estimate a proportion p, of the population that the rows are a sample of, from noisy counts of hits and misses.

    `confidence.limits` has the method and its proof: exact tails, so that small and rare classes are covered. It holds
    for the proportion among these very rows too, about which the noise alone is uncertain.

    Args:
        hits: noisy counts whose sum is the numerator.
        misses: the other noisy counts of the denominator.
        scale: standard deviation of the noise on each count.
        bound: contribution bound; rows of one unit may be alike.
        confidence: chance at least that the interval holds p, given the number of rows; each end by itself misses it
            with half of the rest at most.

    Returns:
        An interval within [0, 1]; all of it where the noise leaves no information.
    """
    sampling = sampling_of_ratio(len(hits), len(misses), scale=scale, bound=bound)
    return _share(math.fsum(hits), math.fsum(misses), sampling=sampling, confidence=confidence)


def sampling_of_ratio(hits: int, misses: int, *, scale: float, bound: int = 1) -> Sampling:
    """Return how the numbers of a `ratio` come about.

    Args:
        hits, misses: how many noisy counts are added up for each.
        scale: standard deviation of the noise on each count.
        bound: contribution bound.
    """
    from privacy_pipeline.confidence import Sampling

    # Whole numbers: noise that is added up to them is at most as spread as a Gaussian that is rounded to them.
    step = 1.0 if scale else 0.0
    return Sampling(hit_variance=hits * scale**2, miss_variance=misses * scale**2, step=step, group=bound)


def mean(noisy: Noisy, *, bound: int = 1, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of the clamped values, of the population that the rows are a sample of.

    Values that are moved and scaled to [0, 1] are in convex order below hits and misses of the same mean, so that no
    second moment has to be released. The interval is that of a proportion, whatever the values are.

    Args:
        noisy: answer to a `Moments` query.
        bound: contribution bound; rows of one unit may be alike.
        confidence: chance at least that the interval holds the mean, given the number of rows.

    Returns:
        An interval within the query's range; all of it where the noise leaves no information.
    """
    query = noisy.query
    if not isinstance(query, Moments):
        raise TypeError(f"a mean needs the answer to a Moments query, not to {query}")
    total, n = (noisy.values[cell] / UNIT_OF_FIXED_POINT for cell in ("sum", "count"))
    sampling = sampling_of_mean(noisy.scale / UNIT_OF_FIXED_POINT, bound=bound)
    share = _share((n + total) / 2, (n - total) / 2, sampling=sampling, confidence=confidence)

    def moved(number: float) -> float:
        return query.centre + query.half_width * (2 * number - 1)

    value = None if share.value is None else moved(share.value)
    return Interval(value=value, low=moved(share.low), high=moved(share.high), confidence=confidence)


def sampling_of_mean(scale: float, *, bound: int = 1) -> Sampling:
    """Return how half of (n + total) and of (n - total) come about, for a total of n values in [-1, 1].

    Args:
        scale: standard deviation of the noise on n, and of that on the total.
        bound: contribution bound.
    """
    from privacy_pipeline.confidence import Sampling

    # The two noises are those of a sum and a difference, so that they are independent of each other too.
    half, rounding = scale**2 / 2, 1 / (4 * UNIT_OF_FIXED_POINT)
    return Sampling(hit_variance=half, miss_variance=half, rounding=rounding, group=bound, simple=False)


def total(noisy: Noisy, *, confidence: float = CONFIDENCE) -> Interval:
    """Return the sum of the clamped values of this split: noise is the only error.

    Args:
        noisy: answer to a `Moments` query.
        confidence: chance at least that the interval holds the sum.
    """
    from privacy_pipeline.confidence import normal_reach

    query = noisy.query
    if not isinstance(query, Moments):
        raise TypeError(f"a sum needs the answer to a Moments query, not to {query}")
    centred, n = (noisy.values[cell] / UNIT_OF_FIXED_POINT for cell in ("sum", "count"))
    value = query.half_width * centred + query.centre * n
    z, one = normal_reach(confidence), noisy.scale / UNIT_OF_FIXED_POINT
    # Fixed point rounds each value by up to half a step; the rows may be more than the noisy count.
    most = max(0.0, n) + _SURELY * one
    reach = z * one * math.hypot(query.half_width, query.centre) + most * query.half_width / (2 * UNIT_OF_FIXED_POINT)
    return Interval(value=value, low=value - reach, high=value + reach, confidence=confidence)


def vocabulary(noisy: Noisy, *, most: int) -> tuple[str, ...]:
    """Return the most frequent values, by noisy count, ties in alphabetical order.

    Args:
        noisy: answer to a `Vocabulary` query.
        most: how many.
    """
    ranked = sorted(noisy.values, key=lambda value: (-noisy.values[value], value))
    return tuple(ranked[:most])


def rates(confusion: Mapping[str, float], *, scale: float, bound: int = 1) -> dict[str, Interval]:
    """Return the accuracy, precision and recall from noisy confusion counts.

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


def _share(hits: float, misses: float, *, sampling: Sampling, confidence: float) -> Interval:
    from privacy_pipeline.confidence import limits, two_sided

    low, high = (float(end) for end in limits(hits, misses, sampling=sampling, level=two_sided(confidence)))
    if (low, high) == (0.0, 1.0):
        return Interval(value=None, low=low, high=high, confidence=confidence)
    value = min(max(hits / (hits + misses), low), high)
    return Interval(value=value, low=low, high=high, confidence=confidence)
