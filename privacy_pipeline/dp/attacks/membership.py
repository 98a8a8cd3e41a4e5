"""Membership inference by the loss: an empirical risk reading of a trained model, never a guarantee.

An attacker who knows an example's loss guesses "member" where it lies below a threshold (Yeom, Giacomelli, Fredrikson
and Jha 2018, "Privacy Risk in Machine Learning", adversary 2; the threshold attack of TensorFlow Privacy's
`privacy_tests`, which the wheel of its version 0.9 no longer carries). Stronger attacks exist: a reading near chance
does not show that a model is safe, a high one shows that it is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.confidence import Sampling, limits, two_sided
from privacy_pipeline.errors import BadInputError

FALSE_POSITIVE_RATES = (0.01, 0.1)
CONFIDENCE = 0.95
STATEMENT = (
    "an attack by the loss alone, whose outcome on these examples is exact and protected by no noise: a risk reading "
    "for the model's owner, not covered by any guarantee and none itself; stronger attacks exist"
)


@dataclass(frozen=True, kw_only=True)
class AttackReading:
    """How well the loss separates members from others.

    Attributes:
        slice: "overall", or column=value.
        members: examples of the training split.
        others: examples that the training never saw.
        auc: chance that a member's loss lies below another's, ties as half; 0.5 is chance.
        auc_low, auc_high: its 95 % confidence interval, for examples that are independent draws (`auc_interval`).
        true_positive_rates: at each of `FALSE_POSITIVE_RATES`, the share of members below the threshold that accuses at
            most that share of the others.
    """

    slice: str
    members: int
    others: int
    auc: float
    auc_low: float
    auc_high: float
    true_positive_rates: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        rates = zip(FALSE_POSITIVE_RATES, self.true_positive_rates, strict=True)
        return {
            "kind": "loss threshold",
            "slice": self.slice,
            "members": self.members,
            "others": self.others,
            "auc": self.auc,
            "auc_interval": [self.auc_low, self.auc_high],
            "true_positive_rate_at": {f"{rate:g}": found for rate, found in rates},
        }


def auc_of(members: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Return the share of pairs in which the member's loss lies below the other's, ties as half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, members, side="left")
    upto = np.searchsorted(ordered, members, side="right")
    return float(np.mean(1 - (below + upto) / (2 * others.size)))


def auc_interval(auc: float, *, members: int, others: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return an interval for the AUC of the distributions that the losses are draws of, whatever these are.

    The AUC is an average over divisions into pairs, of which each is the mean of as many independent numbers in [0, 1]
    as the smaller side has examples; so it is in convex order below the share of hits among that many (Hoeffding 1963,
    section 5). An interval by the estimated variance (DeLong, DeLong and Clarke-Pearson 1988) is narrower, and of no
    use where a few losses are separated without error: that variance is 0 then.

    Args:
        auc: what was found.
        members, others: numbers of examples.
        confidence: chance at least that the interval holds it.
    """
    pairs = min(members, others)
    sampling = Sampling(simple=False)
    low, high = limits(auc * pairs, (1 - auc) * pairs, sampling=sampling, level=two_sided(confidence))
    return float(low), float(high)


def threshold_attack(
    members: NDArray[np.float64], others: NDArray[np.float64], *, slice_name: str = "overall"
) -> AttackReading:
    """Read the risk from losses.

    Args:
        members: losses of training examples, [members].
        others: losses of examples that were not trained on, of the same distribution, [others].
        slice_name: what the examples have in common.

    Raises:
        BadInputError: fewer than two losses on a side, or one that is not a number.
    """
    if min(members.size, others.size) < 2:
        raise BadInputError(f"slice {slice_name}: an attack needs two members and two others at least")
    if np.isnan(members).any() or np.isnan(others).any():
        raise BadInputError(f"slice {slice_name}: a loss is not a number")
    auc = auc_of(members, others)
    low, high = auc_interval(auc, members=members.size, others=others.size)
    ordered = np.sort(others)
    rates = []
    for rate in FALSE_POSITIVE_RATES:
        # Losses strictly below this one accuse at most that share of the others.
        limit = ordered[math.floor(rate * others.size)]
        rates.append(float(np.mean(members < limit)))
    return AttackReading(
        slice=slice_name,
        members=members.size,
        others=others.size,
        auc=auc,
        auc_low=low,
        auc_high=high,
        true_positive_rates=tuple(rates),
    )
