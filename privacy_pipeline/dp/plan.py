"""The privacy plan: unit, relation, sampling, clipping, noise, and the DpEvent that they imply, in one frozen object.

After jax_privacy's execution plan. The trainer takes its batches, its bound and its noise from here, and the
accountants take the event from here, so that what runs and what is accounted are one thing. No TensorFlow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from privacy_pipeline.accounting.accountants import epsilon_of, guarantee
from privacy_pipeline.accounting.calibration import calibrate_noise_multiplier
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.renyi import AccountingError
from privacy_pipeline.config.models.ranges import NOISE_STDDEV
from privacy_pipeline.dp.mechanism.mechanism import (
    AdaptiveClipping,
    Clipping,
    Noise,
    UserBound,
    require,
    require_numbers,
    require_parts,
    require_positive,
    require_relation,
    require_whole,
)
from privacy_pipeline.dp.mechanism.sampling import Asked, Sampling, TruncatedPoissonSampling, probability_of, scheme_of
from privacy_pipeline.dp.noise.correlated import correlated_event, why_unbounded

__all__ = ["AdaptiveClipping", "Clipping", "Noise", "PrivacyPlan", "UserBound"]

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from privacy_pipeline.accounting.record import Guarantee

_MOST_RAISES = 20


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """Everything that decides the guarantee of a training run, before any data is read.

    >>> import privacy_pipeline as pp
    >>> sizes = {"units": 60_000, "expected_batch_size": 256, "epochs": 15, "delta": 1e-5, "clipping_norm": 1.0}
    >>> round(pp.PrivacyPlan.calibrated(noise_multiplier=1.0, **sizes).epsilon(), 2)
    1.35

    Attributes:
        relation: neighbouring relation. Under ZERO_OUT `units` is public; under ADD_OR_REMOVE_ONE it is secret,
            `units` is None, and nothing here may have been computed from it.
        units: number of units in the training data, or None.
        sampling: how batches are drawn.
        clipping, noise: the bound of a unit's contribution, and the noise.
        steps: optimizer updates at most.
        delta: delta of the guarantee.
        users: what a user may contribute, if users are the privacy units; they are what is counted and sampled then.

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
    users: UserBound | None = None

    def __post_init__(self) -> None:
        require_relation(self.relation)
        require(isinstance(self.sampling, Sampling), f"sampling is {self.sampling!r}, and not one of `sampling`")
        require_parts(clipping=self.clipping, noise=self.noise, users=self.users)
        require_whole(steps=self.steps, units=self.units)
        require_numbers(delta=self.delta)
        require(self.steps is not None and self.steps >= 1, f"steps must be 1 or more, found {self.steps}")
        require(self.delta is not None and 0 < self.delta < 1, f"delta must lie between 0 and 1, found {self.delta!r}")
        if self.relation is Relation.ZERO_OUT:
            given = self.units is not None and self.units >= 1
            require(given, "under zero-out the number of units is public", "give units")
        else:
            require(self.units is None, "under add-or-remove-one the number of units is secret", "leave units out")
        self.sampling.check(units=self.units, steps=self.steps)
        if self.clipping.adaptive is not None:
            self.clipping.adaptive.sum_multiplier(self.noise.multiplier)
            independent = self.noise.correlation == "none"
            require(independent, "adaptive clipping changes the norm over which correlated noise is spread")
            whole = self.users is None or self.users.clip == "sum"
            require(whole, "adaptive clipping counts what is clipped, k times for a user", "use clip='sum'")
        what = "the noise on the mean gradient (noise_multiplier * clipping_norm / expected batch)"
        NOISE_STDDEV.require(what, self.noise_stddev, fix="change the largest or the smallest of the three")

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
        correlation: str = "none",
        bands: int | None = None,
        adaptive: AdaptiveClipping | None = None,
        users: UserBound | None = None,
    ) -> PrivacyPlan:
        """Return a plan that meets a target epsilon with the least noise, or one with a given noise multiplier.

        Args:
            delta: delta of the guarantee.
            clipping_norm: L2 bound of one unit's contribution.
            units: number of units; under ADD_OR_REMOVE_ONE leave it out.
            expected_batch_size: expected number of units of a batch; for "shuffled" and "cyclic" the exact one.
            sampling_probability: needed under ADD_OR_REMOVE_ONE, where it may not be computed from the data; else
                it follows from `expected_batch_size` and `units`.
            epochs: expected passes over the data; give this or `steps`.
            steps: optimizer updates.
            epsilon: target; give this or `noise_multiplier`.
            noise_multiplier: standard deviation of the noise over the clipping norm.
            relation: neighbouring relation.
            sampling: "poisson", "truncated_poisson", "shuffled" (each unit once an epoch; no amplification is
                claimed) or "cyclic" (shuffled once).
            truncate_at: largest batch of "truncated_poisson"; without it 5 standard deviations above the mean.
            per_layer, adaptive: see `Clipping`.
            hardened, correlation, bands: see `Noise`.
            users: makes users the privacy units; see `UserBound`. `units` and batches count users then.

        Raises:
            BadInputError: too few or too many of the numbers, or one out of range.
            AccountingError: an epsilon is asked for where none is known.
        """
        require_whole(units=units, steps=steps, truncate_at=truncate_at, bands=bands)
        require_numbers(delta=delta, clipping_norm=clipping_norm, epochs=epochs, epsilon=epsilon)
        require_numbers(expected_batch_size=expected_batch_size, noise_multiplier=noise_multiplier)
        require_numbers(sampling_probability=sampling_probability)
        require_relation(relation)
        require((epochs is None) != (steps is None), "give either epochs or steps")
        require((epsilon is None) != (noise_multiplier is None), "give either epsilon or noise_multiplier")
        require(expected_batch_size is not None, "give expected_batch_size")
        batch = float(expected_batch_size or 0.0)
        require_positive("expected_batch_size", batch)
        probability = probability_of(sampling_probability, batch=batch, units=units, relation=relation)
        scheme = scheme_of(sampling, Asked(batch=batch, probability=probability, units=units, cap=truncate_at))
        if steps is None:
            steps = scheme.steps(epochs=float(epochs or 0.0))

        def with_noise(multiplier: float, *, final: bool = True) -> PrivacyPlan:
            # While the noise is searched for, adaptive clipping is left out: the event is that of the whole multiplier.
            return cls(
                relation=relation,
                units=units,
                sampling=scheme,
                clipping=Clipping(norm=clipping_norm, per_layer=per_layer, adaptive=adaptive if final else None),
                noise=Noise(multiplier=multiplier, hardened=hardened, correlation=correlation, bands=bands),
                steps=steps or 0,
                delta=delta,
                users=users,
            )

        if noise_multiplier is None:
            noise_multiplier = _least_noise(lambda m: with_noise(m, final=False), epsilon=float(epsilon or 0.0))
        return with_noise(noise_multiplier)

    @property
    def unit(self) -> str:
        """What is protected: "user" or "example"."""
        return "example" if self.users is None else "user"

    @property
    def event(self) -> DpEvent:
        """The DpEvent of all `steps`."""
        return self.event_of(self.steps)

    def event_of(self, steps: int) -> DpEvent:
        """Return the DpEvent of the first `steps` steps. A pass that was begun counts in full."""
        from dp_accounting import NoOpDpEvent

        require(0 <= steps <= self.steps, f"the plan has {self.steps} steps, not {steps}")
        if steps == 0:
            return NoOpDpEvent()
        if self.noise.correlation != "none":
            return correlated_event(self.noise, self.sampling, steps=steps)
        return self.sampling.event(noise_multiplier=self.noise.multiplier, steps=steps)

    @property
    def expected_batch_size(self) -> float:
        """What every noisy sum is divided by: public, and never the size of the batch that was drawn."""
        return self.sampling.expected_batch_size

    @property
    def sum_multiplier(self) -> float:
        """Noise multiplier of the sum; below adaptive clipping, more than that of sum and count together."""
        adaptive = self.clipping.adaptive
        return self.noise.multiplier if adaptive is None else adaptive.sum_multiplier(self.noise.multiplier)

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise in each coordinate of the mean gradient, at the (first) clipping norm."""
        return self.sum_multiplier * self.clipping.norm / self.expected_batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which callbacks are called for the end of an epoch."""
        return self.sampling.steps_per_epoch

    def epsilon(self) -> float:
        """Return the headline epsilon at `delta`.

        Raises:
            AccountingError: no accountant gives one.
        """
        self._require_bound()
        return epsilon_of(self.event, delta=self.delta, relation=self.relation)

    def guarantee(self) -> Guarantee:
        """Return epsilon by both accountants, and the curve.

        Raises:
            AccountingError: there is no finite epsilon.
        """
        self._require_bound()
        return guarantee(self.event, delta=self.delta, relation=self.relation)

    def _require_bound(self) -> None:
        reason = why_unbounded(self.noise, self.sampling)
        if reason is not None:
            raise AccountingError(f"epsilon is unknown: {reason}", fix="use sampling 'cyclic', or independent noise")

    @property
    def untruncated_event(self) -> DpEvent:
        """The event for accountants that do not support truncation, such as a Renyi filter; see `truncation_delta`."""
        if isinstance(self.sampling, TruncatedPoissonSampling):
            return self.sampling.untruncated(noise_multiplier=self.noise.multiplier, steps=self.steps)
        return self.event

    def truncation_delta(self, epsilon: float) -> float:
        """Return what is added to delta where `untruncated_event` stands in for `event`; 0 without truncation.

        Args:
            epsilon: epsilon of the guarantee that it is added to.
        """
        if isinstance(self.sampling, TruncatedPoissonSampling):
            return self.sampling.extra_delta(epsilon=epsilon, steps=self.steps)
        return 0.0

    def parameters(self) -> dict[str, Any]:
        """Return the plan as JSON values, without the event (which follows from them)."""
        return {
            "unit": self.unit,
            "relation": self.relation.value,
            "units": self.units,
            "sampling": self.sampling.parameters(),
            "clipping": self.clipping.parameters(),
            "noise": self.noise.parameters(),
            "users": None if self.users is None else self.users.parameters(),
            "expected_batch_size": self.expected_batch_size,
            "steps": self.steps,
            "delta": self.delta,
        }

    def digest(self) -> str:
        """Return the SHA-256 over the parameters."""
        return hashlib.sha256(json.dumps(self.parameters(), sort_keys=True).encode()).hexdigest()


def _least_noise(with_noise: Callable[[float], PrivacyPlan], *, epsilon: float) -> float:
    """Return the least noise multiplier that meets epsilon; for truncated sampling within 0.5 % of it."""
    some = with_noise(1.0)
    some._require_bound()
    noise = calibrate_noise_multiplier(
        lambda multiplier: with_noise(multiplier).untruncated_event,
        target_epsilon=epsilon,
        delta=some.delta,
        relation=some.relation,
    )
    # Truncation costs a little more than its absence, so the search starts at the latter's noise.
    truncated = isinstance(some.sampling, TruncatedPoissonSampling)
    for _ in range(_MOST_RAISES if truncated else 0):
        if with_noise(noise).epsilon() <= epsilon:
            return noise
        noise *= 1.005
    require(not truncated, "no noise near that of untruncated sampling meets epsilon", "raise truncate_at")
    return noise
