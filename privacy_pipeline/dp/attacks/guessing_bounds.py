"""Lower bounds on epsilon from guesses of fair coins (Steinke, Nasr and Jagielski 2023, arXiv 2305.08846)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.errors import BadInputError

if TYPE_CHECKING:
    pass

_LARGEST_EPSILON = 50.0
_PRECISION = 1e-4
# Shares of the canaries that are guessed in, and out: fixed before anything is seen, and paid for by Bonferroni. A
# bound that is broken for a few units shows among few guesses, noise that is too small among many.
_SHARES = ((0.01, 0.0), (0.03, 0.0), (0.02, 0.02), (0.1, 0.1))


def guess_p_value(*, correct: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """Return a bound on the chance of this many right guesses under (epsilon, delta)-DP (Steinke et al., theorem 5.2).

    P[right >= v] <= beta + 2 m delta max_i P[v > W >= v - i] / i with beta = P[W >= v] and W binomial over the r
    guesses with probability e^epsilon / (e^epsilon + 1).

    Args:
        correct: right guesses, v.
        guesses: guesses, r; fixed before the mechanism ran.
        canaries: canaries, m, each included with probability 1/2.
        epsilon: the hypothesis.
        delta: its delta.
    """
    from scipy.stats import binom  # type: ignore[import-untyped]

    probability = 1 / (1 + math.exp(-epsilon))
    beta = float(binom.sf(correct - 1, guesses, probability))
    if delta == 0 or correct == 0:
        return min(1.0, beta)
    places = np.arange(1, correct + 1)
    between = np.cumsum(binom.pmf(correct - places, guesses, probability))  # P[v > W >= v - i]
    return min(1.0, beta + 2 * canaries * delta * float(np.max(between / places)))


def epsilon_lower_bound(*, correct: int, guesses: int, canaries: int, delta: float, confidence: float) -> float:
    """Return the largest epsilon that the guesses disprove, 0 if none.

    A mechanism that is (epsilon, delta)-DP gets a bound above its epsilon with probability 1 - confidence at most.

    Args:
        correct: right guesses.
        guesses: guesses made; fixed before the mechanism ran.
        canaries: canaries, each included with probability 1/2.
        delta: delta of the bound.
        confidence: of the bound, below 1.

    Raises:
        BadInputError: numbers that contradict each other.
    """
    if not 0 <= correct <= guesses <= canaries or not 0 <= delta < 1 or not 0 < confidence < 1:
        raise BadInputError(
            f"an audit needs 0 <= correct <= guesses <= canaries, found {correct}, {guesses}, {canaries}, and delta "
            f"and confidence below 1, found {delta!r} and {confidence!r}"
        )
    level = 1 - confidence

    def disproved(epsilon: float) -> bool:
        p = guess_p_value(correct=correct, guesses=guesses, canaries=canaries, epsilon=epsilon, delta=delta)
        return p <= level

    low, high = 0.0, _LARGEST_EPSILON
    if not disproved(low):
        return 0.0
    if disproved(high):
        return high
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if disproved(middle) else (low, middle)
    return low


@dataclass(frozen=True)
class GuessedBound:
    """The best bound of several numbers of guesses, all of which were paid for."""

    lower_bound: float
    guesses: int
    correct: int


def bound_from_scores(
    scores: NDArray[np.float64], included: NDArray[np.bool_], *, delta: float, confidence: float
) -> GuessedBound:
    """Guess the canaries with the highest scores in and those with the lowest out, and bound epsilon.

    How many are guessed in and out is tried in four ways that were fixed beforehand. Each gets a quarter of the error
    (Bonferroni), so that the best of the four bounds has the confidence in full.

    Args:
        scores: of each canary, [canaries]; higher where it seems to have been included.
        included: the coins, [canaries].
        delta: delta of the bound.
        confidence: of the bound.

    Raises:
        BadInputError: fewer than 2 canaries.
    """
    count = scores.size
    if count < 2:
        raise BadInputError(f"an audit needs 2 canaries or more, found {count}")
    order = np.argsort(scores, kind="stable")
    each = 1 - (1 - confidence) / len(_SHARES)
    found = []
    for share_in, share_out in _SHARES:
        top, bottom = math.ceil(share_in * count), math.ceil(share_out * count)
        correct = int(included[order[count - top :]].sum() + (~included[order[:bottom]]).sum())
        bound = epsilon_lower_bound(correct=correct, guesses=top + bottom, canaries=count, delta=delta, confidence=each)
        found.append(GuessedBound(bound, top + bottom, correct))
    return max(found, key=lambda one: one.lower_bound)
