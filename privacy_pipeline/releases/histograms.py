"""Estimates from noisy histograms: quantiles with their intervals, ranges, and the public edges to count between."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from privacy_pipeline.releases.queries import Histogram
from privacy_pipeline.releases.release import Noisy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

from privacy_pipeline.releases.estimates import CONFIDENCE, Interval


def quantile(noisy: Noisy, share: float) -> float:
    """Return an estimate of a quantile of the rows: `quantile_interval` gives how far it may be from it.

    The noisy number of rows below an edge, less `share` of all, rises through 0 at the quantile. It is summed from the
    first edge on, and least there. No cell is cut at 0 before it is added: else each empty one would add to the sum.

    Args:
        noisy: answer to a `Histogram` query.
        share: from 0 to 1.

    Returns:
        A number between the first and the last edge, linear within an interval.
    """
    import numpy as np

    query, above, _ = _above_quantile(noisy, share)
    place = int(np.argmin(np.cumsum([0.0, *above])))  # the first edge that is above the quantile
    if place in (0, len(above)):
        return query.edges[0] if place == 0 else query.edges[-1]
    below, beyond = min(above[place - 1], 0.0), max(above[place], 0.0)
    part = -below / (beyond - below) if beyond > below else 0.5
    low, high = query.edges[place - 1 : place + 1]
    return low + (high - low) * part


def quantile_interval(noisy: Noisy, share: float, *, confidence: float = CONFIDENCE) -> Interval:
    """Return the edges between which a quantile of these very rows lies: noise is the only error.

    An edge is above the quantile if more than `share` of the rows lie below it, and is named as such where the noisy
    numbers show it at once for all edges (Bonferroni). The quantile is the least number that at least `share` of the
    rows do not exceed.

    Args:
        noisy: answer to a `Histogram` query.
        share: from 0 to 1.
        confidence: chance at least that low <= quantile < high, or <= where high is the last one that there is.

    Returns:
        The estimate of `quantile`, brought into the interval. An end is infinite where no edge bounds it.
    """
    from privacy_pipeline.confidence import two_sided, upper_quantile

    query, above, deviation = _above_quantile(noisy, share)
    reach = upper_quantile(two_sided(confidence) / len(query.edges)) * deviation + 0.5
    sure_below = [edge for edge, far in zip(query.edges, above < -reach, strict=True) if far]
    sure_above = [edge for edge, far in zip(query.edges, above > reach, strict=True) if far]
    low, high = max(sure_below, default=-math.inf), min(sure_above, default=math.inf)
    if low >= high:  # noise that is rarer than the confidence allows for
        low, high = -math.inf, math.inf
    return Interval(value=min(max(quantile(noisy, share), low), high), low=low, high=high, confidence=confidence)


def _above_quantile(noisy: Noisy, share: float) -> tuple[Histogram, NDArray[np.float64], NDArray[np.float64]]:
    """Return, for each edge, the rows below it less `share` of all, and the standard deviation of the noise on that."""
    import numpy as np

    query = noisy.query
    if not isinstance(query, Histogram):
        raise TypeError(f"a quantile needs the answer to a Histogram query, not to {query}")
    counts = np.array([noisy.values[cell] for cell in query.cells], np.float64)
    below = np.cumsum(counts)[:-1]
    cells = np.arange(1, counts.size)
    variance = cells * (1 - share) ** 2 + (counts.size - cells) * share**2
    return query, below - share * counts.sum(), noisy.scale * np.sqrt(variance)


def value_range(noisy: Noisy, *, confidence: float = 1 - 1e-3) -> tuple[float, float] | None:
    """Return the range from the first interval that surely holds any value to the last.

    An interval counts if its noisy count is one that no empty interval has, `least`. So an end of the range has values
    beside it. Values outside are few in each interval, below 2 `least`, and may be many in all of them together.

    Args:
        noisy: answer to a `Histogram` query.
        confidence: chance at least that no empty interval counts; and, by itself, that each one does which holds twice
            `least` or more.

    Returns:
        Lower edge of the first such interval and upper edge of the last; None where there is none.
    """
    from privacy_pipeline.confidence import upper_quantile

    query = noisy.query
    if not isinstance(query, Histogram):
        raise TypeError(f"a range needs the answer to a Histogram query, not to {query}")
    least = 1 + noisy.scale * upper_quantile((1 - confidence) / len(query.cells))
    held = [index for index, cell in enumerate(query.cells) if noisy.values[cell] >= least]
    if not held:
        return None
    edges = query.edges
    return edges[max(held[0] - 1, 0)], edges[min(held[-1], len(edges) - 1)]


def linear_edges(minimum: float, maximum: float, *, intervals: int) -> tuple[float, ...]:
    """Return public edges of equal distance."""
    return tuple(minimum + (maximum - minimum) * index / intervals for index in range(intervals + 1))


def logarithmic_edges(*, smallest: int = -20, largest: int = 40) -> tuple[float, ...]:
    """Return public edges for numbers of any size: 0 and the powers of two, of both signs.

    Args:
        smallest: exponent of the smallest.
        largest: exponent of the largest.
    """
    powers = [2.0**exponent for exponent in range(smallest, largest + 1)]
    return (*(-power for power in reversed(powers)), 0.0, *powers)
