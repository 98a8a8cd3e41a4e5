"""Sampling schemes: what each one draws, in numbers, and the DpEvent that this implies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from privacy_pipeline.accounting.events import gaussian_passes, poisson_gaussian
from privacy_pipeline.errors import BadInputError

if TYPE_CHECKING:
    from dp_accounting import DpEvent


def _check_probability(probability: float, expected: float) -> None:
    if not 0 < probability <= 1:
        raise BadInputError(f"the sampling probability must lie in (0, 1], found {probability!r}")
    if not (expected > 0 and math.isfinite(expected)):
        raise BadInputError(f"the expected batch size must be positive, found {expected!r}")


@dataclass(frozen=True, kw_only=True)
class PoissonSampling:
    """Each unit is in each batch with the same probability, independently; batches vary in size and may be empty.

    Attributes:
        probability: chance of a unit to be in a batch.
        expected: what sums are divided by; under zero-out it is probability * units.
    """

    probability: float
    expected: float

    def check(self, *, units: int | None, steps: int) -> None:
        """Refuses what does not go with the plan."""
        _check_probability(self.probability, self.expected)
        if units is not None and not math.isclose(self.probability * units, self.expected, rel_tol=1e-9):
            raise BadInputError("the expected batch size must be probability * units")

    @property
    def expected_batch_size(self) -> float:
        """See `PrivacyPlan.expected_batch_size`."""
        return self.expected

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which a unit is expected once."""
        return max(1, round(1 / self.probability))

    def steps(self, *, epochs: float) -> int:
        """Steps in which a unit is expected `epochs` times."""
        return max(1, math.floor(epochs / self.probability))

    def event(self, *, noise_multiplier: float, steps: int) -> DpEvent:
        """Composition of Poisson-sampled Gaussians."""
        return poisson_gaussian(sampling_probability=self.probability, noise_multiplier=noise_multiplier, steps=steps)

    def parameters(self) -> dict[str, Any]:
        """JSON values."""
        return {"scheme": "poisson", "probability": self.probability}


@dataclass(frozen=True, kw_only=True)
class TruncatedPoissonSampling:
    """Poisson sampling whose batches are cut to `cap` units, a random subset, and padded to it: fixed shapes.

    Accounted by Ganesh, McMahan, Pillutla et al. 2025 (arXiv 2508.15089) in dp_accounting, which RDP does not cover;
    for a Renyi filter use `untruncated` and add `extra_delta`.

    Attributes:
        probability: chance of a unit to be drawn.
        expected: what sums are divided by: probability * units.
        cap: units of a batch at most, and rows of the padded batch.
        units: number of units, public.
    """

    probability: float
    expected: float
    cap: int
    units: int

    def check(self, *, units: int | None, steps: int) -> None:
        """Refuses what does not go with the plan."""
        _check_probability(self.probability, self.expected)
        if units != self.units or not math.isclose(self.probability * self.units, self.expected, rel_tol=1e-9):
            raise BadInputError("truncated sampling needs the plan's public number of units")
        if self.cap < 1:
            raise BadInputError(f"truncate_at must be 1 or more, found {self.cap}")

    @property
    def expected_batch_size(self) -> float:
        """See `PrivacyPlan.expected_batch_size`."""
        return self.expected

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which a unit is expected once."""
        return max(1, round(1 / self.probability))

    def steps(self, *, epochs: float) -> int:
        """Steps in which a unit is expected `epochs` times."""
        return max(1, math.floor(epochs / self.probability))

    def event(self, *, noise_multiplier: float, steps: int) -> DpEvent:
        """Composition of truncated Poisson-sampled Gaussians."""
        from dp_accounting import SelfComposedDpEvent
        from dp_accounting.dp_event import TruncatedSubsampledGaussianDpEvent

        one = TruncatedSubsampledGaussianDpEvent(self.units, self.probability, self.cap, noise_multiplier)
        return SelfComposedDpEvent(one, steps)

    def untruncated(self, *, noise_multiplier: float, steps: int) -> DpEvent:
        """The event without truncation."""
        return poisson_gaussian(sampling_probability=self.probability, noise_multiplier=noise_multiplier, steps=steps)

    def extra_delta(self, *, epsilon: float, steps: int) -> float:
        """What truncation adds to delta beside `untruncated`: (1 + e^epsilon) * steps * P(batch is cut).

        Truncated and untruncated runs agree unless some batch is cut, on either of two neighbouring datasets.
        """
        from scipy.stats import binom  # type: ignore[import-untyped]

        return float((1 + math.exp(epsilon)) * steps * binom.sf(self.cap, self.units, self.probability))

    def parameters(self) -> dict[str, Any]:
        """JSON values."""
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
        """Refuses what does not go with the plan."""
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
        """Steps of whole epochs.

        Raises:
            BadInputError: epochs is no whole number.
        """
        if epochs != int(epochs) or epochs < 1:
            raise BadInputError(f"a fixed partition runs whole epochs, found {epochs!r}")
        return int(epochs) * self.steps_per_epoch

    def event(self, *, noise_multiplier: float, steps: int) -> DpEvent:
        """One Gaussian for each pass that was begun."""
        return gaussian_passes(noise_multiplier=noise_multiplier, epochs=math.ceil(steps / self.steps_per_epoch))

    def parameters(self) -> dict[str, Any]:
        """JSON values."""
        scheme = "cyclic" if self.cyclic else "fixed_partition"
        return {"scheme": scheme, "batch_size": self.batch_size, "units": self.units}


Sampling = PoissonSampling | TruncatedPoissonSampling | FixedPartition
