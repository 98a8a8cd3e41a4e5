"""Sampling schemes: what each one draws, in numbers, and the DpEvent that this implies."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from privacy_pipeline.accounting.events import gaussian_passes, poisson_gaussian
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.truncation import cap_of_a_cut, chance_of_a_cut, paid
from privacy_pipeline.dp.mechanism.mechanism import require
from privacy_pipeline.errors import BadInputError

if TYPE_CHECKING:
    from dp_accounting import DpEvent


def _check_probability(probability: float, expected: float) -> None:
    if not 0 < probability <= 1:
        fix = "expected_batch_size is a number above 0 and at most units, which give the probability"
        raise BadInputError(f"the sampling probability must lie in (0, 1], found {probability!r}", fix=fix)
    if not (expected > 0 and math.isfinite(expected)):
        raise BadInputError(f"the expected batch size must be positive, found {expected!r}")


@dataclass(frozen=True, kw_only=True)
class _IndependentDraws:
    """What both Poisson schemes share. Neither is a kind of the other: `isinstance` must distinguish them."""

    probability: float
    expected: float

    @property
    def expected_batch_size(self) -> float:
        """See `PrivacyPlan.expected_batch_size`."""
        return self.expected

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which a unit is expected once."""
        return max(1, round(1 / self.probability))

    def steps(self, *, epochs: float) -> int:
        """Return steps in which a unit is expected `epochs` times."""
        return max(1, math.floor(epochs / self.probability))

    def untruncated(self, *, noise_multiplier: float, steps: int) -> DpEvent:
        """Return the composition of Poisson-sampled Gaussians, no batch cut."""
        return poisson_gaussian(sampling_probability=self.probability, noise_multiplier=noise_multiplier, steps=steps)


@dataclass(frozen=True, kw_only=True)
class PoissonSampling(_IndependentDraws):
    """Each unit is in each batch with the same probability, independently; batches vary in size and may be empty.

    Attributes:
        probability: chance of a unit to be in a batch.
        expected: what sums are divided by; under zero-out it is probability * units.
    """

    def check(self, *, units: int | None, steps: int) -> None:
        """Refuse what does not go with the plan."""
        _check_probability(self.probability, self.expected)
        if units is not None and not math.isclose(self.probability * units, self.expected, rel_tol=1e-9):
            raise BadInputError("the expected batch size must be probability * units")

    def event(self, *, noise_multiplier: float, steps: int) -> DpEvent:
        """Return the composition of Poisson-sampled Gaussians."""
        return self.untruncated(noise_multiplier=noise_multiplier, steps=steps)

    def parameters(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"scheme": "poisson", "probability": self.probability}


@dataclass(frozen=True, kw_only=True)
class TruncatedPoissonSampling(_IndependentDraws):
    """Poisson sampling whose batches are cut to `cap` units, a random subset, and padded to it: fixed shapes.

    Accounted by Ganesh, McMahan, Pillutla et al. 2025 (arXiv 2508.15089) in dp_accounting, which RDP does not cover;
    for a Renyi filter use `untruncated` and add `extra_delta`.

    Attributes:
        probability: chance of a unit to be drawn.
        expected: what sums are divided by: probability * units.
        cap: units of a batch at most, and rows of the padded batch.
        units: number of units, public.
    """

    cap: int
    units: int

    def check(self, *, units: int | None, steps: int) -> None:
        """Refuse what does not go with the plan."""
        _check_probability(self.probability, self.expected)
        if units != self.units or not math.isclose(self.probability * self.units, self.expected, rel_tol=1e-9):
            raise BadInputError("truncated sampling needs the plan's public number of units")
        if self.cap < 1:
            raise BadInputError(f"truncate_at must be 1 or more, found {self.cap}")

    def event(self, *, noise_multiplier: float, steps: int) -> DpEvent:
        """Return the composition of truncated Poisson-sampled Gaussians."""
        from dp_accounting import SelfComposedDpEvent
        from dp_accounting.dp_event import TruncatedSubsampledGaussianDpEvent

        one = TruncatedSubsampledGaussianDpEvent(self.units, self.probability, self.cap, noise_multiplier)
        return SelfComposedDpEvent(one, steps)

    def extra_delta(self, *, epsilon: float, steps: int) -> float:
        """Return what truncation adds to delta beside `untruncated`; see `accounting.truncation`."""
        return paid(steps * chance_of_a_cut(self.cap, self.units, self.probability), epsilon=epsilon)

    def parameters(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"scheme": "truncated_poisson", "probability": self.probability, "cap": self.cap, "units": self.units}


@dataclass(frozen=True, kw_only=True)
class FixedPartition:
    """Each epoch deals a permutation into batches of one size; what fills no batch is left out of the epoch.

    For comparison with common practice, and for correlated noise. No amplification is claimed: an epoch is one Gaussian
    mechanism.

    Attributes:
        batch_size: units of each batch.
        units: number of units, public.
        cyclic: one permutation for all epochs, so that a unit's uses are an epoch apart; else each has its own.
    """

    batch_size: int
    units: int
    cyclic: bool = False

    def check(self, *, units: int | None, steps: int) -> None:
        """Refuse what does not go with the plan."""
        if units != self.units:
            raise BadInputError("a fixed partition is accounted under zero-out, for the plan's number of units")
        if not 1 <= self.batch_size <= self.units:
            raise BadInputError(f"a batch of {self.batch_size} does not fit into {self.units} units")

    @property
    def expected_batch_size(self) -> float:
        """See `PrivacyPlan.expected_batch_size`."""
        return float(self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return self.units // self.batch_size

    def steps(self, *, epochs: float) -> int:
        """Return steps of whole epochs.

        Raises:
            BadInputError: epochs is not a whole number.
        """
        if epochs != int(epochs) or epochs < 1:
            raise BadInputError(f"a fixed partition runs whole epochs, found {epochs!r}")
        return int(epochs) * self.steps_per_epoch

    def event(self, *, noise_multiplier: float, steps: int) -> DpEvent:
        """Return one Gaussian for each pass that was begun."""
        return gaussian_passes(noise_multiplier=noise_multiplier, epochs=math.ceil(steps / self.steps_per_epoch))

    def parameters(self) -> dict[str, Any]:
        """Return JSON values."""
        scheme = "cyclic" if self.cyclic else "fixed_partition"  # records and digests keep the first name of "shuffled"
        return {"scheme": scheme, "batch_size": self.batch_size, "units": self.units}


Sampling = PoissonSampling | TruncatedPoissonSampling | FixedPartition


def cap_for_extra_delta(extra_delta: float, *, probability: float, units: int, steps: int, epsilon: float) -> int:
    """Return the least cap of truncated samples at which `TruncatedPoissonSampling.extra_delta` is at most a number.

    Args:
        extra_delta: what truncation may add to delta.
        probability: chance of a unit to be drawn.
        units: number of units.
        steps: steps.
        epsilon: epsilon of the guarantee that it is added to.
    """
    return cap_of_a_cut(extra_delta / paid(steps, epsilon=epsilon), units, probability)


def probability_of(given: float | None, *, batch: float, units: int | None, relation: Relation) -> float:
    """Return the sampling probability of a plan: given under add-or-remove-one, else batch over units.

    Raises:
        BadInputError: it is given where it follows, or missing where it does not.
    """
    if relation is Relation.ADD_OR_REMOVE_ONE:
        require(
            units is None and given is not None,
            "under add-or-remove-one the number of units is secret",
            "give sampling_probability and expected_batch_size as constants, and no units",
        )
        return float(given or 0.0)
    require(units is not None, "under zero-out the number of units is public", "give units")
    require(given is None, "sampling_probability follows from expected_batch_size and units", "leave it out")
    return batch / float(units or 1)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a plan gives its sampling.

    Attributes:
        batch: expected number of units of a batch.
        probability: chance of a unit to be in a batch.
        units: number of units; None where it is secret.
        cap: largest batch of truncated samples; None for the default.
    """

    batch: float
    probability: float
    units: int | None
    cap: int | None


def _poisson(asked: Asked) -> Sampling:
    return PoissonSampling(probability=asked.probability, expected=asked.batch)


def _truncated(asked: Asked) -> Sampling:
    units, batch, probability = asked.units, asked.batch, asked.probability
    require(units is not None, "truncation is accounted for a public number of units only", "use zero-out")
    spread = math.sqrt(batch * (1 - min(1.0, probability)))
    cap = asked.cap or math.ceil(batch + 5 * spread)
    return TruncatedPoissonSampling(probability=probability, expected=batch, cap=cap, units=int(units or 0))


def _partition(asked: Asked, *, cyclic: bool) -> Sampling:
    require(asked.units is not None, "a fixed partition is accounted under zero-out only")
    require(asked.batch == int(asked.batch), "a fixed partition has batches of a whole number of units")
    return FixedPartition(batch_size=int(asked.batch), units=int(asked.units or 0), cyclic=cyclic)


# A scheme is added by what makes it, and one line here.
SCHEMES: Mapping[str, Callable[[Asked], Sampling]] = {
    "poisson": _poisson,
    "truncated_poisson": _truncated,
    "shuffled": partial(_partition, cyclic=False),
    "cyclic": partial(_partition, cyclic=True),
}
_FORMER = {"fixed_partition": "shuffled"}


def scheme_of(name: str, asked: Asked) -> Sampling:
    """Return the sampling of a plan, by name; see `PrivacyPlan.calibrated`.

    Raises:
        BadInputError: an unknown name, or numbers that do not go with it.
    """
    if isinstance(name, str) and name in _FORMER:
        warnings.warn(f"sampling={name!r} is sampling={_FORMER[name]!r} now", FutureWarning, stacklevel=4)
        name = _FORMER[name]
    known = ", ".join(SCHEMES)
    require(isinstance(name, str) and name in SCHEMES, f"unknown sampling {name!r}", known)
    require(asked.cap is None or name == "truncated_poisson", "truncate_at is for sampling='truncated_poisson'")
    return SCHEMES[name](asked)
