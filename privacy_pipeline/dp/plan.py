"""The privacy plan: unit, relation, sampling, clipping, noise, and the DpEvent that they imply, in one frozen object.

After jax_privacy's execution plan. The trainer takes its batches, its bound and its noise from here, and the
accountants take the event from here, so that what runs and what is accounted are one thing. No TensorFlow.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from privacy_pipeline.accounting.accountants import epsilon_of, guarantee
from privacy_pipeline.accounting.calibration import calibrate_noise_multiplier
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.dp.sampling import FixedPartition, PoissonSampling, Sampling, TruncatedPoissonSampling
from privacy_pipeline.errors import BadInputError

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from privacy_pipeline.accounting.record import Guarantee


_MOST_RAISES = 20


def _require(holds: bool, message: str, fix: str = "") -> None:
    if not holds:
        raise BadInputError(message, fix=fix)


def _positive(name: str, value: float) -> None:
    _require(value > 0 and math.isfinite(value), f"{name} must be a positive number, found {value!r}")


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """How one unit's influence on a step is bounded.

    Attributes:
        norm: L2 bound of one unit's contribution to the sum of a step, over all variables.
        per_layer: bound each layer's gradient to norm / sqrt(layers) instead of the whole gradient to norm; the
            bound on the whole is the same.
    """

    norm: float
    per_layer: bool = False

    def __post_init__(self) -> None:
        _positive("clipping norm", self.norm)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Gaussian noise on the sum of a step.

    Attributes:
        multiplier: standard deviation over the clipping norm.
        hardened: draw it from ChaCha20, as a sum of four Gaussians, in float64 (see `noise.HardenedNoise`).
    """

    multiplier: float
    hardened: bool = False

    def __post_init__(self) -> None:
        _positive("noise multiplier", self.multiplier)


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """Everything that decides the guarantee of a training run, before any data is read.

    Attributes:
        unit: what is protected; "example".
        relation: neighbouring relation. Under ZERO_OUT `units` is public; under ADD_OR_REMOVE_ONE it is secret,
            `units` is None, and nothing here may have been computed from it.
        units: number of units in the training data, or None.
        sampling: how batches are drawn.
        clipping: the bound.
        noise: the noise.
        steps: optimizer updates at most.
        delta: delta of the guarantee.

    Raises:
        BadInputError: a number out of range, or parts that do not go together.
    """

    relation: Relation = Relation.ZERO_OUT
    units: int | None
    sampling: Sampling
    clipping: Clipping
    noise: Noise
    steps: int
    delta: float
    unit: str = "example"

    def __post_init__(self) -> None:
        _require(self.steps >= 1, f"steps must be 1 or more, found {self.steps}")
        _require(0 < self.delta < 1, f"delta must lie between 0 and 1, found {self.delta!r}")
        _require(self.unit == "example", f"unit '{self.unit}' is not supported", "use unit='example'")
        if self.relation is Relation.ZERO_OUT:
            _require(
                self.units is not None and self.units >= 1, "under zero-out the number of units is public", "give units"
            )
        else:
            _require(self.units is None, "under add-or-remove-one the number of units is secret", "leave units out")
        self.sampling.check(units=self.units, steps=self.steps)

    @classmethod
    def calibrated(
        cls,
        *,
        delta: float,
        clipping_norm: float,
        units: int | None = None,
        expected_batch_size: float | None = None,
        sampling_probability: float | None = None,
        epochs: float | None = None,
        steps: int | None = None,
        epsilon: float | None = None,
        noise_multiplier: float | None = None,
        relation: Relation = Relation.ZERO_OUT,
        sampling: str = "poisson",
        truncate_at: int | None = None,
        per_layer: bool = False,
        hardened: bool = False,
    ) -> PrivacyPlan:
        """A plan that meets a target epsilon with the least noise, or one with a given noise multiplier.

        Args:
            delta: delta of the guarantee.
            clipping_norm: L2 bound of one unit's contribution.
            units: number of units; under ADD_OR_REMOVE_ONE leave it out.
            expected_batch_size: expected number of units of a batch; for "fixed_partition" the exact one.
            sampling_probability: needed under ADD_OR_REMOVE_ONE, where it may not be computed from the data; else
                it follows from `expected_batch_size` and `units`.
            epochs: expected passes over the data; give this or `steps`.
            steps: optimizer updates.
            epsilon: target; give this or `noise_multiplier`.
            noise_multiplier: standard deviation of the noise over the clipping norm.
            relation: neighbouring relation.
            sampling: "poisson", "truncated_poisson" or "fixed_partition" (shuffled; no amplification is claimed).
            truncate_at: largest batch of "truncated_poisson"; without it 5 standard deviations above the mean.
            per_layer: see `Clipping`.
            hardened: see `Noise`.

        Raises:
            BadInputError: too few or too many of the numbers, or one out of range.
        """
        _require((epochs is None) != (steps is None), "give either epochs or steps")
        _require((epsilon is None) != (noise_multiplier is None), "give either epsilon or noise_multiplier")
        _require(expected_batch_size is not None, "give expected_batch_size")
        batch = float(expected_batch_size or 0.0)
        _positive("expected_batch_size", batch)
        probability = _probability(sampling_probability, batch=batch, units=units, relation=relation)
        scheme = _scheme(
            sampling, batch=batch, probability=probability, units=units, epochs=epochs, steps=steps, cap=truncate_at
        )
        if steps is None:
            steps = scheme.steps(epochs=float(epochs or 0.0))
        noise = noise_multiplier
        if noise is None:
            count = steps
            noise = _least_noise(scheme, steps=count, epsilon=float(epsilon or 0.0), delta=delta, relation=relation)
        return cls(
            relation=relation,
            units=units,
            sampling=scheme,
            clipping=Clipping(norm=clipping_norm, per_layer=per_layer),
            noise=Noise(multiplier=noise, hardened=hardened),
            steps=steps,
            delta=delta,
        )

    @property
    def event(self) -> DpEvent:
        """The DpEvent of all `steps`."""
        return self.event_of(self.steps)

    def event_of(self, steps: int) -> DpEvent:
        """The DpEvent of the first `steps` steps. A pass that was begun counts in full."""
        from dp_accounting import NoOpDpEvent

        _require(0 <= steps <= self.steps, f"the plan has {self.steps} steps, not {steps}")
        if steps == 0:
            return NoOpDpEvent()
        return self.sampling.event(noise_multiplier=self.noise.multiplier, steps=steps)

    @property
    def expected_batch_size(self) -> float:
        """What every noisy sum is divided by: public, and never the size of the batch that was drawn."""
        return self.sampling.expected_batch_size

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise in each coordinate of the mean gradient."""
        return self.noise.multiplier * self.clipping.norm / self.expected_batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which callbacks are told that an epoch ended."""
        return self.sampling.steps_per_epoch

    def epsilon(self) -> float:
        """Headline epsilon at `delta`.

        Raises:
            AccountingError: no accountant gives one.
        """
        if isinstance(self.sampling, TruncatedPoissonSampling):
            return _by_pld(self.event, delta=self.delta, relation=self.relation)
        return epsilon_of(self.event, delta=self.delta, relation=self.relation)

    def guarantee(self) -> Guarantee:
        """Epsilon by both accountants, and the curve.

        Raises:
            AccountingError: there is no finite epsilon.
        """
        return guarantee(self.event, delta=self.delta, relation=self.relation)

    def parameters(self) -> dict[str, Any]:
        """The plan as JSON values, without the event (which follows from them)."""
        return {
            "unit": self.unit,
            "relation": self.relation.value,
            "units": self.units,
            "sampling": self.sampling.parameters(),
            "clipping": {"norm": self.clipping.norm, "per_layer": self.clipping.per_layer},
            "noise": {"multiplier": self.noise.multiplier, "hardened": self.noise.hardened},
            "expected_batch_size": self.expected_batch_size,
            "steps": self.steps,
            "delta": self.delta,
        }

    def digest(self) -> str:
        """SHA-256 over the parameters."""
        return hashlib.sha256(json.dumps(self.parameters(), sort_keys=True).encode()).hexdigest()


def _by_pld(event: DpEvent, *, delta: float, relation: Relation) -> float:
    """Epsilon of truncated sampling, which RDP does not know; `epsilon_of` wants RDP beside PLD."""
    return guarantee(event, delta=delta, relation=relation).epsilon


def _least_noise(scheme: Sampling, *, steps: int, epsilon: float, delta: float, relation: Relation) -> float:
    """The least noise multiplier that meets epsilon; for truncated sampling within 0.5 % of it."""
    truncated = isinstance(scheme, TruncatedPoissonSampling)

    def event(multiplier: float) -> DpEvent:
        if isinstance(scheme, TruncatedPoissonSampling):
            return scheme.untruncated(noise_multiplier=multiplier, steps=steps)
        return scheme.event(noise_multiplier=multiplier, steps=steps)

    noise = calibrate_noise_multiplier(event, target_epsilon=epsilon, delta=delta, relation=relation)
    # Truncation costs a little more than its absence, so the search starts at the latter's noise.
    for _ in range(_MOST_RAISES if truncated else 0):
        if _by_pld(scheme.event(noise_multiplier=noise, steps=steps), delta=delta, relation=relation) <= epsilon:
            return noise
        noise *= 1.005
    _require(not truncated, "no noise near that of untruncated sampling meets epsilon", "raise truncate_at")
    return noise


def _probability(given: float | None, *, batch: float, units: int | None, relation: Relation) -> float:
    if relation is Relation.ADD_OR_REMOVE_ONE:
        _require(
            units is None and given is not None,
            "under add-or-remove-one the number of units is secret",
            "give sampling_probability and expected_batch_size as constants, and no units",
        )
        return float(given or 0.0)
    _require(units is not None, "under zero-out the number of units is public", "give units")
    _require(given is None, "sampling_probability follows from expected_batch_size and units", "leave it out")
    return batch / float(units or 1)


def _scheme(
    name: str,
    *,
    batch: float,
    probability: float,
    units: int | None,
    epochs: float | None,
    steps: int | None,
    cap: int | None,
) -> Sampling:
    _require(cap is None or name == "truncated_poisson", "truncate_at is for sampling='truncated_poisson'")
    if name == "poisson":
        return PoissonSampling(probability=probability, expected=batch)
    if name == "truncated_poisson":
        _require(units is not None, "truncation is accounted for a public number of units only", "use zero-out")
        spread = math.sqrt(batch * (1 - min(1.0, probability)))
        return TruncatedPoissonSampling(
            probability=probability, expected=batch, cap=cap or math.ceil(batch + 5 * spread), units=int(units or 0)
        )
    if name == "fixed_partition":
        _require(units is not None, "a fixed partition is accounted under zero-out only")
        _require(batch == int(batch), "a fixed partition has batches of a whole number of units")
        return FixedPartition(batch_size=int(batch), units=int(units or 0))
    raise BadInputError(f"unknown sampling {name!r}", fix="poisson, truncated_poisson or fixed_partition")
