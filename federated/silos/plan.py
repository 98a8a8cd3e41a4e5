"""The plan of cross-silo training with DP-SGD inside each silo, and the DpEvent of any one record. No TensorFlow.

All silos share sampling probability, noise multiplier, clipping norm and number of steps; a silo's expected batch is
the probability times its own public number of units. A unit is in one silo, so that its event is the same whichever
silo that is: a composition of Poisson-sampled Gaussians over the steps (Abadi et al. 2016, arXiv 1607.00133). The other
silos and the server only work on what the unit's silo has noised.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.dp.mechanism.sampling import PoissonSampling
from privacy_pipeline.dp.plan import PrivacyPlan, UserBound
from privacy_pipeline.errors import BadInputError

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from privacy_pipeline.accounting.record import Guarantee


@dataclass(frozen=True, kw_only=True)
class SiloPlan:
    """Everything that decides the guarantee of a record, before any data is read. Made by `calibrated`.

    Attributes:
        base: the mechanism that a unit of any silo goes through; its units are those of all silos together.
        silos: name and number of units of each silo, by name; public, and fixed here.
        local_steps: steps of each silo in a round; the last round may have fewer.

    Raises:
        BadInputError: no silo, an empty one, one that is named twice, numbers that do not add up to the units, or a
            mechanism whose event would depend on the silo.
    """

    base: PrivacyPlan
    silos: tuple[tuple[str, int], ...]
    local_steps: int

    def __post_init__(self) -> None:
        base = self.base
        if not isinstance(base.sampling, PoissonSampling) or base.relation is not Relation.ZERO_OUT:
            raise BadInputError("silos draw Poisson samples of a public number of records", fix="sampling: poisson")
        if base.noise.correlation != "none" or base.clipping.adaptive is not None:
            raise BadInputError("silos add independent noise and clip to a fixed norm")
        if self.local_steps < 1:
            raise BadInputError(f"local_steps must be 1 or more, found {self.local_steps}")
        names = [name for name, _ in self.silos]
        if not names or sorted(set(names)) != names:
            raise BadInputError("silos need distinct names, in order")
        for name, units in self.silos:
            if units < 1:
                raise BadInputError(f"silo '{name}' holds no records", fix="leave it out")
        total = sum(units for _, units in self.silos)
        if total != base.units:
            raise BadInputError(
                f"the silos hold {total:,} units together, and the dataset has {base.units:,}",
                fix="state the number of units of each silo; they are counted when the dataset is registered",
            )
        for place in range(len(self.silos)):
            self.plan_of(place)  # its noise is in range at its own expected batch too

    @classmethod
    def calibrated(
        cls,
        *,
        silos: Mapping[str, int],
        sampling_probability: float,
        delta: float,
        clipping_norm: float,
        rounds: int | None = None,
        epochs: float | None = None,
        local_steps: int | None = None,
        epsilon: float | None = None,
        noise_multiplier: float | None = None,
        hardened: bool = False,
        users: UserBound | None = None,
    ) -> SiloPlan:
        """Return a plan that meets a target epsilon with the least noise, or one with a given noise multiplier.

        Args:
            silos: public number of units of each silo, by name.
            sampling_probability: chance of each unit to be in each step of its silo.
            delta: delta of the guarantee.
            clipping_norm: L2 bound of one unit's gradient.
            rounds: rounds; give this or `epochs`.
            epochs: expected steps of each unit.
            local_steps: steps of each silo in a round; default: as many as draw each unit once, in expectation.
            epsilon: target; give this or `noise_multiplier`.
            noise_multiplier: standard deviation of each silo's noise of the sum over the clipping norm.
            hardened: noise that resists floating-point attacks.
            users: makes users the units; see `dp.plan.UserBound`.

        Raises:
            BadInputError: numbers out of range, or parts that do not go together.
            AccountingError: the target cannot be met.
        """
        if not 0 < sampling_probability <= 1:
            raise BadInputError(f"sampling_probability must lie in (0, 1], found {sampling_probability!r}")
        local_steps = local_steps or max(1, round(1 / sampling_probability))
        units = sum(silos.values())
        base = PrivacyPlan.calibrated(
            units=units,
            expected_batch_size=sampling_probability * units,
            epochs=epochs,
            steps=None if rounds is None else rounds * local_steps,
            epsilon=epsilon,
            noise_multiplier=noise_multiplier,
            delta=delta,
            clipping_norm=clipping_norm,
            hardened=hardened,
            users=users,
        )
        return cls(base=base, silos=tuple(sorted(silos.items())), local_steps=local_steps)

    @property
    def probability(self) -> float:
        """Chance of each unit to be in each step of its silo; one for all silos."""
        return self._sampling.probability

    @property
    def _sampling(self) -> PoissonSampling:
        sampling = self.base.sampling
        if not isinstance(sampling, PoissonSampling):  # refused at construction
            raise BadInputError("silos draw Poisson samples")
        return sampling

    def plan_of(self, place: int) -> PrivacyPlan:
        """Return the plan that a silo trains under: the base with its own number of units.

        Args:
            place: place of the silo in `silos`.
        """
        units = self.silos[place][1]
        sampling = replace(self._sampling, expected=self.probability * units)
        return replace(self.base, units=units, sampling=sampling)

    def weight_of(self, place: int) -> float:
        """Return a silo's share of all units, the weight of its update in the mean."""
        return self.silos[place][1] / float(self.base.units or 1)

    @property
    def steps(self) -> int:
        """Steps of each silo over all rounds."""
        return self.base.steps

    @property
    def rounds(self) -> int:
        """Rounds, in each of which every silo takes part."""
        return -(-self.steps // self.local_steps)

    def steps_of(self, round_number: int) -> range:
        """Return the numbers of the steps that each silo makes in a round, which counts from 0.

        Raises:
            BadInputError: the plan has no such round.
        """
        if not 0 <= round_number < self.rounds:
            raise BadInputError(f"the plan has {self.rounds} rounds; round {round_number} is not accounted for")
        first = round_number * self.local_steps
        return range(first, min(first + self.local_steps, self.steps))

    @property
    def units(self) -> int:
        """Units of all silos together."""
        return int(self.base.units or 0)

    @property
    def relation(self) -> Relation:
        """Zero-out: the number of units of each silo is public."""
        return self.base.relation

    @property
    def delta(self) -> float:
        """Delta of the guarantee."""
        return self.base.delta

    @property
    def event(self) -> DpEvent:
        """The DpEvent of a unit of any silo, over all rounds."""
        return self.base.event

    def event_of(self, rounds: int) -> DpEvent:
        """Return the DpEvent of a unit of any silo, over the first rounds."""
        return self.base.event_of(min(rounds * self.local_steps, self.steps))

    def guarantee(self) -> Guarantee:
        """Return epsilon by both accountants, and the curve.

        Raises:
            AccountingError: there is none.
        """
        return self.base.guarantee()

    def parameters(self) -> dict[str, Any]:
        """Return the plan as JSON values, without the event (which follows from them)."""
        return {**self.base.parameters(), "silos": dict(self.silos), "local_steps": self.local_steps}

    def digest(self) -> str:
        """Return the SHA-256 over the parameters."""
        return hashlib.sha256(json.dumps(self.parameters(), sort_keys=True).encode()).hexdigest()
