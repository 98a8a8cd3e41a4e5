"""A mechanism bound to what is accounted for it: what makes the rounds also states what they cost. No TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.errors import PipelineError

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from privacy_pipeline.accounting.record import Guarantee


class RoundsPlan(Protocol):
    """The mechanism of a run, round by round: a `FederatedPlan` or a `SiloPlan`."""

    @property
    def rounds(self) -> int:
        """Rounds."""

    @property
    def delta(self) -> float:
        """Delta of the guarantee."""

    @property
    def relation(self) -> Relation:
        """Neighbouring relation."""

    @property
    def event(self) -> DpEvent:
        """The DpEvent of all rounds."""

    def event_of(self, rounds: int) -> DpEvent:
        """Return the DpEvent of the first rounds."""

    def guarantee(self) -> Guarantee:
        """Return epsilon by both accountants."""

    def parameters(self) -> dict[str, Any]:
        """Return the plan as JSON values."""


class Mechanism(Protocol):
    """What adds the noise: an aggregator of clients' updates, or the engine of silos."""

    @property
    def summed(self) -> list[int]:
        """The round of each noisy sum that it gave out, in their order."""

    @property
    def generator(self) -> str:
        """What the noise comes from, for the record."""


@dataclass(kw_only=True)
class Accounted:
    """The mechanism of one run and its plan, built together from one key. Made by `federated.driver.protected`.

    Attributes:
        plan: what was reserved; the mechanism was built from it.
        key: the run's key.
        mechanism: what adds the noise.
        earlier: the round of each noisy sum that an earlier process of this run gave out, up to its last checkpoint.
    """

    plan: RoundsPlan
    key: RunKey
    mechanism: Mechanism
    earlier: Sequence[int] = ()

    @property
    def summed(self) -> list[int]:
        """The round of each noisy sum of the run, in their order.

        A round that is made again after the last checkpoint gives the same sum under the same noise: it counts once.
        """
        return [*self.earlier, *self.mechanism.summed]

    @property
    def generator(self) -> str:
        """What the noise comes from, for the record."""
        return self.mechanism.generator

    def executed(self) -> DpEvent:
        """Return the event of what the mechanism gave out, whatever was planned; see `executed`."""
        return executed(self.plan, self.summed)

    def require_whole(self) -> None:
        """Refuse to state the plan's guarantee for anything but its rounds, each once.

        Raises:
            PipelineError: another number of rounds was made than planned, or a round was given out twice.
        """
        if not _in_order(self.summed):
            raise PipelineError("a round was left out or given out twice, so this run has no guarantee")
        made, planned = len(self.summed), self.plan.rounds
        if made != planned:
            raise PipelineError(f"{made} rounds were made, {planned} were planned, so this run has no guarantee")

    @property
    def whole(self) -> bool:
        """Whether all rounds of the plan were made, each once."""
        return self.summed == list(range(self.plan.rounds))


def executed(plan: RoundsPlan, summed: Sequence[int]) -> DpEvent:
    """Return the event of what a mechanism gave out, whatever was planned.

    Args:
        plan: the plan.
        summed: the round of each noisy sum, in their order.

    Returns:
        The event of the rounds from the first on; one without a bound where a round was left out or given out twice:
        its noise follows from key and round, and two sums under one noise reveal their difference.
    """
    from dp_accounting import NonPrivateDpEvent

    return plan.event_of(len(summed)) if _in_order(summed) else NonPrivateDpEvent()


def _in_order(summed: Sequence[int]) -> bool:
    return list(summed) == list(range(len(summed)))
