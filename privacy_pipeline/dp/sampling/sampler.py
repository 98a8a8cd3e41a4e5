"""Draws the batches of a plan: which units each step uses is a function of the run's key and the step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.mechanism.sampling import FixedPartition, PoissonSampling, Sampling, TruncatedPoissonSampling
from privacy_pipeline.errors import BadInputError

Indices = NDArray[np.int64]


def poisson_sample(generator: np.random.Generator, *, units: int, probability: float) -> Indices:
    """Draw the units of a Poisson sample, ascending, int64; each is in it with `probability`, independently.

    The gaps between members of such a sample are geometric, so the work grows with the sample and not with the data.

    Args:
        generator: source of randomness.
        units: number of units.
        probability: in (0, 1].
    """
    mean = units * probability
    count = math.ceil(mean + 6 * math.sqrt(mean) + 16)
    found: list[Indices] = []
    last = -1
    while last < units:
        places = last + np.cumsum(generator.geometric(probability, size=count))
        # Gaps of tiny probabilities can leave the range of int64: past the end in any case.
        wrapped = np.flatnonzero(np.diff(places, prepend=last) <= 0)
        if wrapped.size:
            places = np.append(places[: wrapped[0]], units)
        found.append(places)
        last = int(places[-1])
    joined = np.concatenate(found)
    return joined[joined < units].astype(np.int64)


class Draws(Protocol):
    """What a sampler needs of a plan."""

    @property
    def units(self) -> int | None:
        """Number of units where it is public."""

    @property
    def steps(self) -> int:
        """Steps."""

    @property
    def sampling(self) -> Sampling:
        """How the units of a step are drawn."""


@dataclass(frozen=True)
class Sampler:
    """Gives the units of each step of a plan.

    NumPy's Philox4x64-10 is keyed with 128 bits of the run's key, and its counter starts at the step: steps can be
    drawn in any order, ahead of time, or again.

    Attributes:
        plan: the plan.
        key: the run's key.
        units: number of units in the store. Secret under ADD_OR_REMOVE_ONE.

    Raises:
        BadInputError: the store does not hold the public number of units.
    """

    plan: Draws
    key: RunKey
    units: int
    _orders: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.plan.units is not None and self.plan.units != self.units:
            raise BadInputError(
                f"the plan is for {self.plan.units} units, the data holds {self.units}",
                fix="make the plan with the number of units of this data",
            )

    def generator(self, purpose: str, counter: int) -> np.random.Generator:
        """Return the source of randomness for one purpose and step."""
        key = int.from_bytes(self.key.derive(purpose, 16), "little")
        # The lowest word counts within a step; the step is in the next one.
        return np.random.Generator(np.random.Philox(key=key, counter=counter << 64))

    def batch(self, step: int) -> Indices:
        """Return the units of a step, int64, [batch]; may be empty.

        Args:
            step: from 0 to plan.steps - 1.

        Raises:
            BadInputError: the plan has no such step.
        """
        if not 0 <= step < self.plan.steps:
            raise BadInputError(f"the plan has {self.plan.steps} steps; step {step} is not accounted for")
        scheme = self.plan.sampling
        if isinstance(scheme, FixedPartition):
            epoch, place = divmod(step, scheme.steps_per_epoch)
            order = self._order(0 if scheme.cyclic else epoch)
            return np.sort(order[place * scheme.batch_size : (place + 1) * scheme.batch_size])
        return self._poisson(scheme, step)

    def _order(self, epoch: int) -> Indices:
        """Return the permutation of an epoch; the last one is kept."""
        if self._orders.get("epoch") != epoch:
            self._orders.update(epoch=epoch, order=self.generator("sampling", epoch).permutation(self.units))
        return np.asarray(self._orders["order"])

    def _poisson(self, scheme: PoissonSampling | TruncatedPoissonSampling, step: int) -> Indices:
        generator = self.generator("sampling", step)
        drawn = poisson_sample(generator, units=self.units, probability=scheme.probability)
        if isinstance(scheme, TruncatedPoissonSampling) and drawn.size > scheme.cap:
            return np.sort(generator.choice(drawn, size=scheme.cap, replace=False))
        return drawn
