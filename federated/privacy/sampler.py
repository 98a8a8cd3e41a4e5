"""Draws the clients of each round of a plan: a function of the run's key and the round. No TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from federated.privacy.cohort_plan import Attendance
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.mechanism.sampling import FixedPartition, Sampling
from privacy_pipeline.dp.sampling.sampler import Sampler
from privacy_pipeline.errors import BadInputError, PipelineError

Clients = NDArray[np.int64]


class Cohorts(Protocol):
    """What decides who takes part: a `FederatedPlan`, or a `CohortPlan` without privacy."""

    @property
    def clients(self) -> int | None:
        """Number of clients; None where it is secret."""

    @property
    def rounds(self) -> int:
        """Rounds at most."""

    @property
    def sampling(self) -> Sampling:
        """How the clients of a round are drawn."""

    @property
    def attendance(self) -> Attendance:
        """Clients that do not report back."""


class _Draws(NamedTuple):
    """The plan in the words of `dp.sampling.sampler`."""

    units: int | None
    steps: int
    sampling: Sampling


@dataclass(frozen=True)
class ClientSampler:
    """Gives the clients of each round.

    Under "poisson" each client is drawn with the plan's probability, independently of the others and of other rounds:
    a cohort's size varies, and it may be empty. What was drawn is what the plan's event accounts for; who is absent
    after that only lessens what is released.

    Attributes:
        plan: the plan.
        key: the run's key.
        clients: clients in the store. Secret under ADD_OR_REMOVE_ONE.

    Raises:
        BadInputError: the store does not hold the plan's number of clients.
    """

    plan: Cohorts
    key: RunKey
    clients: int
    _draws: Sampler = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.plan.clients is not None and self.plan.clients != self.clients:
            raise BadInputError(
                f"the plan is for {self.plan.clients} clients, the data holds {self.clients}",
                fix="make the plan with the number of clients of this data",
            )
        draws = _Draws(self.plan.clients, self.plan.rounds, self.plan.sampling)
        object.__setattr__(self, "_draws", Sampler(draws, self.key, self.clients))

    @property
    def name(self) -> str:
        """Name of the scheme (`accounting.plan.Sampler`)."""
        return str(self.plan.sampling.parameters()["scheme"])

    def drawn(self, round_number: int) -> Clients:
        """Return the clients that a round asks, whether they report back or not; ascending, int64, each at most once.

        Args:
            round_number: from 0 to plan.rounds - 1.

        Raises:
            BadInputError: the plan has no such round.
        """
        if not 0 <= round_number < self.plan.rounds:
            raise BadInputError(f"the plan has {self.plan.rounds} rounds; round {round_number} is not accounted for")
        return self._draws.batch(round_number)

    def cohort(self, round_number: int) -> Clients:
        """Return the clients whose updates are in a round's sum: those drawn that report back in time; may be empty.

        Args:
            round_number: from 0 to plan.rounds - 1.

        Raises:
            BadInputError: the plan has no such round.
        """
        drawn = self.drawn(round_number)
        absent = self.plan.attendance.absent
        if absent == 0:
            return drawn
        # One number for each client of the data: whether one reports back depends on nobody else.
        return drawn[self._draws.generator("attendance", round_number).random(self.clients)[drawn] >= absent]


class Participation:
    """Counts rounds of clients where the guarantee rests on how often, and how far apart, they take part.

    Args:
        plan: the plan.
        clients: clients in the store.
    """

    def __init__(self, plan: Cohorts, clients: int) -> None:
        sampling = plan.sampling
        self._scheme = sampling if isinstance(sampling, FixedPartition) else None
        self._last = np.full(clients if self._scheme else 0, -1, np.int64)
        self._largest = 0

    def observe(self, round_number: int, cohort: Clients) -> None:
        """Count a cohort.

        Raises:
            PipelineError: a client is in it twice, or takes part more often than is accounted for.
        """
        if cohort.size and np.any(np.diff(cohort) <= 0):
            raise PipelineError("a client is in a round twice: what ran is not what is accounted for")
        if self._scheme is None:
            return
        length, before = self._scheme.steps_per_epoch, self._last[cohort]
        seen = before >= 0
        if np.any(seen & (before // length == round_number // length)):
            raise PipelineError("a client took part twice in an epoch: what ran is not what is accounted for")
        if self._scheme.cyclic and np.any(seen & (before % length != round_number % length)):
            raise PipelineError("a client's rounds are not an epoch apart: what ran is not what is accounted for")
        self._last[cohort] = round_number
        self._largest = max(self._largest, int(cohort.size > 0))

    @property
    def largest(self) -> int | None:
        """Most rounds of an epoch that any one client was in; None for Poisson samples, where it is secret."""
        return self._largest if self._scheme is not None else None
