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

from privacy_pipeline.errors import BadInputError

FALSE_POSITIVE_RATES = (0.01, 0.1)
_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
STATEMENT = (
    "an attack by the loss alone, whose outcome on these examples is exact and protected by no noise: a risk reading "
    "for the model's owner, not covered by any guarantee and none itself; stronger attacks exist"
)


@dataclass(frozen=True, kw_only=True)
class AttackReading:
    """How well the loss tells members from others.

    Attributes:
        slice: "overall", or column=value.
        members: examples of the training split.
        others: examples that the training never saw.
        auc: chance that a member's loss lies below another's, ties as half; 0.5 is chance.
        auc_low, auc_high: its 95 % confidence interval (DeLong, DeLong and Clarke-Pearson 1988).
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
        """JSON values."""
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


def _placements(values: NDArray[np.float64], among: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of `among` above each value, ties as half."""
    ordered = np.sort(among)
    below = np.searchsorted(ordered, values, side="left")
    upto = np.searchsorted(ordered, values, side="right")
    shares: NDArray[np.float64] = 1 - (below + upto) / (2 * among.size)
    return shares


def threshold_attack(
    members: NDArray[np.float64], others: NDArray[np.float64], *, slice_name: str = "overall"
) -> AttackReading:
    """Reads the risk from losses.

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
    of_members = _placements(members, others)
    of_others = 1 - _placements(others, members)
    auc = float(of_members.mean())
    spread = math.sqrt(of_members.var(ddof=1) / members.size + of_others.var(ddof=1) / others.size)
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
        auc_low=max(0.0, auc - _Z * spread),
        auc_high=min(1.0, auc + _Z * spread),
        true_positive_rates=tuple(rates),
    )
