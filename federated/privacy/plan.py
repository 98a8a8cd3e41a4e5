"""The privacy plan of a federated run: clients, sampling, clipping, noise, rounds, and the DpEvent they imply.

It is the plan of `privacy_pipeline.dp` with clients for units and rounds for steps: one update of a client takes the
place of one example's gradient (McMahan et al. 2018, arXiv 1710.06963). Sampler, aggregator and accountants take
their numbers from this object, so that what runs and what is accounted are one thing. No TensorFlow.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from federated.privacy.cohort_plan import Attendance, check_cohort
from federated.privacy.distributed_noise import DistributedNoise, DistributedSettings
from privacy_pipeline.accounting.accountants import epsilon_of, guarantee
from privacy_pipeline.accounting.calibration import calibrate_noise_multiplier
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.renyi import AccountingError
from privacy_pipeline.accounting.truncation import paid
from privacy_pipeline.dp.mechanism.sampling import FixedPartition, Sampling
from privacy_pipeline.dp.plan import AdaptiveClipping, PrivacyPlan
from privacy_pipeline.errors import BadInputError

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from privacy_pipeline.accounting.record import Guarantee

UNIT = "client"


def _check_distributed(base: PrivacyPlan) -> None:
    """Refuse what has no bound with distributed noise, or does nothing there."""
    if not isinstance(base.sampling, FixedPartition):
        raise BadInputError(
            "distributed noise has no bound that samples amplify, and Poisson samples have no fixed number of shares",
            fix="use sampling: shuffled or cyclic",
        )
    if base.noise.correlation != "none":
        raise BadInputError("distributed noise is independent in each round", fix="leave correlation out")
    if base.clipping.adaptive is not None:
        raise BadInputError("adaptive clipping releases a count that distributed noise does not cover")
    if base.noise.hardened:
        raise BadInputError("distributed noise is of whole numbers, with no floating point", fix="leave hardened out")


@dataclass(frozen=True, kw_only=True)
class FederatedPlan:
    """Everything that decides the guarantee of a federated run, before any data is read. Made by `calibrated`.

    Attributes:
        base: the mechanism, with clients as its units and rounds as its steps.
        attendance: clients that do not report back. It is not a part of the guarantee: absence is a thinning of the
            sample that the event does not make use of.
        distributed: the noise as shares of the clients, or None for noise that the server adds. The noise multiplier
            of `base` is then that of `distributed.min_clients` shares, and its own event is not what is accounted.
    """

    base: PrivacyPlan
    attendance: Attendance = field(default_factory=Attendance)
    distributed: DistributedNoise | None = None

    def __post_init__(self) -> None:
        if self.base.users is not None:
            raise BadInputError("clients are the units of a federated plan", fix="leave users out")
        if self.base.clipping.per_layer:
            raise BadInputError("a client's whole update is clipped", fix="leave per_layer out")
        if self.distributed is not None:
            _check_distributed(self.base)

    @classmethod
    def calibrated(
        cls,
        *,
        clients_per_round: float,
        delta: float,
        clipping_norm: float,
        rounds: int | None = None,
        epochs: float | None = None,
        clients: int | None = None,
        sampling_probability: float | None = None,
        epsilon: float | None = None,
        noise_multiplier: float | None = None,
        relation: Relation = Relation.ZERO_OUT,
        sampling: str = "poisson",
        correlation: str = "none",
        bands: int | None = None,
        adaptive: AdaptiveClipping | None = None,
        hardened: bool = False,
        attendance: Attendance | None = None,
        distributed: DistributedSettings | None = None,
    ) -> FederatedPlan:
        """Return a plan that meets a target epsilon with the least noise, or one with a given noise multiplier.

        Args:
            clients_per_round: expected clients of a round; the exact number where sampling is not "poisson". The sum
                of a round is divided by it, however many came.
            delta: delta of the guarantee.
            clipping_norm: L2 bound of a client's update over all variables; the first one if clipping adapts.
            rounds: rounds; give this or `epochs`.
            epochs: expected rounds of each client.
            clients: number of clients, public under ZERO_OUT; leave it out under ADD_OR_REMOVE_ONE.
            sampling_probability: chance of a client to be drawn; under ADD_OR_REMOVE_ONE only.
            epsilon: target; give this or `noise_multiplier`.
            noise_multiplier: standard deviation of the noise of the sum over the clipping norm.
            relation: neighbouring relation between sets of clients.
            sampling: "poisson"; "shuffled", each client once an epoch without amplification; or "cyclic", in the same
                order in each epoch, so that a client's rounds are an epoch apart.
            correlation: "none", "tree" (DP-FTRL, Kairouz et al. 2021, arXiv 2103.00039) or "banded"; the last two
                need "cyclic".
            bands: bands of "banded".
            adaptive: lets the clipping norm follow a quantile of the updates' norms (Andrew et al. 2021).
            hardened: noise that resists floating-point attacks.
            attendance: clients that do not report back.
            distributed: splits the noise into shares of the clients; needs "shuffled" or "cyclic".

        Raises:
            BadInputError: numbers out of range, or parts that do not go together.
            AccountingError: an epsilon is asked for where none is known.
        """
        check_cohort(sampling, clients=clients, per_round=clients_per_round)
        # The noise of shares is searched for below, from a plan with any noise.
        searched = distributed is not None and noise_multiplier is None and epsilon is not None
        base = PrivacyPlan.calibrated(
            relation=relation,
            units=clients,
            expected_batch_size=float(clients_per_round),
            sampling_probability=sampling_probability,
            steps=rounds,
            epochs=epochs,
            epsilon=None if searched else epsilon,
            noise_multiplier=1.0 if searched else noise_multiplier,
            delta=delta,
            clipping_norm=clipping_norm,
            sampling=sampling,
            correlation=correlation,
            bands=bands,
            adaptive=adaptive,
            hardened=hardened,
        )
        plan = cls(base=base, attendance=attendance or Attendance())
        if distributed is None:
            return plan
        if distributed.min_clients is None and plan.attendance.absent > 0:
            raise BadInputError(
                "distributed noise is made for all clients of a round, and some do not report: no round is released",
                fix="set distributed.min_clients to a number that report in nearly every round",
            )
        return plan._with_shares(distributed, epsilon=epsilon if searched else None)

    def _with_shares(self, settings: DistributedSettings, *, epsilon: float | None) -> FederatedPlan:
        """Return the plan with its noise in shares, the least that meets epsilon if one is given."""

        def with_noise(multiplier: float) -> FederatedPlan:
            noise = DistributedNoise.of(
                settings,
                clients=round(self.expected_clients),
                noise_multiplier=multiplier,
                clipping_norm=self.base.clipping.norm,
            )
            base = replace(self.base, noise=replace(self.base.noise, multiplier=multiplier))
            return replace(self, base=base, distributed=noise)

        _check_distributed(self.base)
        multiplier = self.base.noise.multiplier
        if epsilon is not None:
            multiplier = calibrate_noise_multiplier(
                lambda tried: with_noise(tried).event,
                target_epsilon=epsilon,
                delta=self.delta,
                relation=self.relation,
            )
        found = with_noise(multiplier)
        if found.distributed is not None:
            found._require_bound(found.distributed)
        return found

    @property
    def clients(self) -> int | None:
        """Number of clients: public under ZERO_OUT, else None."""
        return self.base.units

    @property
    def rounds(self) -> int:
        """Rounds at most."""
        return self.base.steps

    @property
    def sampling(self) -> Sampling:
        """How the clients of a round are drawn."""
        return self.base.sampling

    @property
    def expected_clients(self) -> float:
        """What every sum is divided by: public, and never the number of clients that came."""
        return self.base.expected_batch_size

    @property
    def relation(self) -> Relation:
        """Neighbouring relation between sets of clients."""
        return self.base.relation

    @property
    def delta(self) -> float:
        """Delta of the guarantee."""
        return self.base.delta

    @property
    def event(self) -> DpEvent:
        """The DpEvent of all rounds."""
        return self.event_of(self.rounds)

    def event_of(self, rounds: int) -> DpEvent:
        """Return the DpEvent of the first rounds. An epoch that was begun counts in full."""
        if self.distributed is None or rounds == 0:
            return self.base.event_of(rounds)
        if not 0 < rounds <= self.rounds:
            raise BadInputError(f"the plan has {self.rounds} rounds, not {rounds}")
        return self.distributed.event(epochs=self._epochs(rounds))

    def _epochs(self, rounds: int) -> int:
        return math.ceil(rounds / self.base.steps_per_epoch)

    def epsilon_of_insider(self, known: int = 1) -> float | None:
        """Return epsilon against somebody who knows some of a round's shares, as each reporting client has its own.

        Args:
            known: shares that are known, and so hide nothing.

        Returns:
            Epsilon at `delta`; None where noise is not distributed, or no share is left.
        """
        if self.distributed is None or known >= self.distributed.min_clients:
            return None
        event = self.distributed.event(epochs=self._epochs(self.rounds), shares=self.distributed.min_clients - known)
        return epsilon_of(event, delta=self.delta, relation=self.relation)

    def epsilon(self) -> float:
        """Return the headline epsilon at `delta`.

        Raises:
            AccountingError: none is known.
        """
        if self.distributed is None:
            return self.base.epsilon()
        return epsilon_of(self.event, delta=self.delta, relation=self.relation)

    def guarantee(self) -> Guarantee:
        """Return epsilon by both accountants, and the curve.

        Raises:
            AccountingError: there is none.
        """
        if self.distributed is None:
            return self.base.guarantee()
        return guarantee(self.event, delta=self.delta, relation=self.relation)

    def _require_bound(self, noise: DistributedNoise) -> None:
        """Refuse noise without a bound, or for which the sampler's numerical limits add more to delta than rounding.

        Raises:
            AccountingError: so it is.
        """
        epsilon = self.epsilon()
        if math.isinf(epsilon):
            raise AccountingError(
                f"epsilon is unknown: a share's standard deviation of {noise.share_variance**0.5:.3g} steps is less "
                "than half of one, which the bound of summed discrete Gaussians asks for",
                fix="raise `bits`, or the noise",
            )
        if paid(noise.distance(self.rounds), epsilon=epsilon) > self.delta * 2.0**-52:
            raise AccountingError(
                f"at epsilon {epsilon:.4g} what separates drawn noise from its distribution is no longer below delta's "
                "rounding",
                fix="raise the noise",
            )

    def parameters(self) -> dict[str, Any]:
        """Return the plan as JSON values, without the event (which follows from them)."""
        attendance = {"dropout": self.attendance.dropout, "straggler": self.attendance.straggler}
        found = {**self.base.parameters(), "unit": UNIT, "attendance": attendance}
        # Only where there is one: the digests of other plans stay what they were.
        return found if self.distributed is None else {**found, "distributed": self.distributed.parameters()}

    def digest(self) -> str:
        """Return the SHA-256 over the parameters."""
        return hashlib.sha256(json.dumps(self.parameters(), sort_keys=True).encode()).hexdigest()
