"""Privacy loss distributions (PLD) of events, and how small a delta they still resolve.

PLD here is pessimistic at every discretisation (Koskela, Jalko and Honkela 2020; connect-the-dots of Doroshenko et al.
2022), so in exact arithmetic its epsilon is an upper bound. In float64 it is one only where delta is well above the
rounding errors of the convolutions: those are of either sign, and grow with the number of compositions, since a Fourier
transform of relative error u has one of n u once it is raised to the n-th power.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from privacy_pipeline.accounting.plan import Relation

if TYPE_CHECKING:
    from dp_accounting import DpEvent

INTERVAL = 1e-4
# An error of delta, for each composition: 16 roundings of float64. Measured against exact Gaussians: about half of one.
ROUNDING = 16 * 2.0**-53
MOST_COMPOSITIONS = 5_000_000  # dp_accounting works with a whole number of as many digits and more
_LEAST_PART = 4  # delta has to be that many times the error


@dataclass(frozen=True, kw_only=True)
class LossDistribution:
    """The PLD of an event.

    Attributes:
        accountant: dp_accounting's accountant with the event composed.
        interval: width of the grid of losses.
        compositions: how often distributions were composed.
    """

    accountant: Any
    interval: float
    compositions: int

    @property
    def error(self) -> float:
        """How far delta may be off: rounding of float64, and what dp_accounting cuts off of the tails."""
        cut = max(0.0, float(self.accountant.get_delta(math.inf)))
        return ROUNDING * self.compositions + cut

    def resolves(self, delta: float) -> bool:
        """Return whether delta is well above its error."""
        return delta >= _LEAST_PART * self.error

    def epsilon(self, delta: float) -> float:
        """Return epsilon at delta, with the rounding paid for out of delta; infinite where delta is not resolved."""
        if not self.resolves(delta):
            return math.inf
        return float(self.accountant.get_epsilon(delta - ROUNDING * self.compositions))


def loss_distribution(event: DpEvent, relation: Relation, *, interval: float = INTERVAL) -> LossDistribution:
    """Return the PLD of an event that `reason_without_pld` has nothing against.

    Args:
        event: the event.
        relation: neighbouring relation.
        interval: width of the grid of losses.
    """
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(neighbours(relation), interval).compose(event)
    return LossDistribution(accountant=accountant, interval=interval, compositions=compositions(event))


def reason_without_pld(event: DpEvent, relation: Relation) -> str | None:
    """Return why there is no PLD of an event; None where there is one."""
    from dp_accounting.pld import PLDAccountant

    if compositions(event) > MOST_COMPOSITIONS:
        return f"PLD over more than {MOST_COMPOSITIONS:,} compositions takes too long"
    if PLDAccountant(neighbours(relation)).supports(event):
        return None
    return f"PLD of dp_accounting {library_version()} does not support this event under {relation.value}"


def compositions(event: DpEvent) -> int:
    """Return how many mechanisms an event composes, each counted as often as it runs; at least 1."""
    from dp_accounting import ComposedDpEvent, SelfComposedDpEvent

    if isinstance(event, SelfComposedDpEvent):
        return max(1, int(event.count) * compositions(event.event))
    if isinstance(event, ComposedDpEvent):
        return max(1, sum(compositions(part) for part in event.events))
    return 1


def neighbours(relation: Relation) -> Any:
    """Return dp_accounting's name of a relation."""
    from dp_accounting import NeighboringRelation

    return {
        Relation.ZERO_OUT: NeighboringRelation.REPLACE_SPECIAL,
        Relation.ADD_OR_REMOVE_ONE: NeighboringRelation.ADD_OR_REMOVE_ONE,
    }[relation]


def library_version() -> str:
    """Return the version of dp_accounting."""
    import importlib.metadata

    return importlib.metadata.version("dp-accounting")
