"""The plan: what a training run will do to the data, and the DpEvent that this implies, in one frozen object.

After jax_privacy's execution plan: `check`, the reservation and the trainer all take their numbers from the same
object, so what is forecast, what is reserved and what runs cannot drift apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, Protocol

from privacy_pipeline.errors import PipelineError

if TYPE_CHECKING:
    from dp_accounting import DpEvent


Purpose = Literal["preprocess", "train", "tune", "evaluate"]  # what a charge is for; a policy gives each a share


class Relation(str, Enum):
    """Neighbouring relation: how two datasets that differ in one privacy unit differ.

    ZERO_OUT replaces a unit's rows by rows that contribute nothing (`REPLACE_SPECIAL` in dp_accounting), so the
    number of units is public. ADD_OR_REMOVE_ONE keeps that number secret.
    """

    ZERO_OUT = "zero_out"
    ADD_OR_REMOVE_ONE = "add_or_remove_one"


class Sampler(str, Enum):
    """How batches are drawn."""

    SHUFFLED = "fixed_partition"  # every unit in one batch of each epoch; the value is in digests and records
    POISSON = "poisson"
    TRUNCATED_POISSON = "truncated_poisson"  # Poisson samples cut to a largest batch
    CYCLIC = "cyclic"  # the same partition in every epoch, for correlated noise


class ChargedPlan(Protocol):
    """What the ledger asks of a plan that it is to charge: a training, a DP statistic or a DP evaluation."""

    @property
    def unit(self) -> str:
        """Either "row", or the key column that names the privacy unit."""

    @property
    def contribution_bound(self) -> int:
        """Rows of one unit that may be used."""

    @property
    def relation(self) -> Relation:
        """Neighbouring relation of the guarantee."""

    @property
    def units(self) -> int | None:
        """Registered number of units of the split that is read: public under ZERO_OUT, else None."""

    @property
    def delta(self) -> float:
        """Delta of the guarantee."""

    @property
    def event(self) -> DpEvent:
        """The DpEvent that the parameters imply."""

    def parameters(self) -> dict[str, Any]:
        """Return the plan's numbers and names without the event, ready for JSON."""

    def digest(self) -> str:
        """Return the SHA-256 over the parameters, hexadecimal."""


@dataclass(frozen=True, kw_only=True)
class MechanismPlan:
    """Parameters of a private training run, before any data is read.

    Attributes:
        backend: name of the backend.
        mechanism: what adds the noise, in words of the field, e.g. "DP-SGD (Gaussian)".
        unit: "row", or the key column that names the unit.
        contribution_bound: rows of one unit that a step may use.
        relation: neighbouring relation of the guarantee.
        sampler: how batches are drawn.
        units: registered number of units in the training split: public under ZERO_OUT; else None, and nothing here
            may have been computed from it.
        epochs: passes over the training split; expected ones where batches are samples.
        batch_size: units per step, public; the expected number where batches are samples.
        steps: optimizer updates.
        clipping_norm: bound on one unit's gradient, L2; the first bound where clipping adapts.
        noise_multiplier: standard deviation of the noise, in multiples of `clipping_norm`.
        delta: delta of the guarantee.
        event: the DpEvent that these parameters imply under `relation` and `sampler`.
        engine: what trains, e.g. "native".
        engine_parameters: the engine's whole plan as JSON values; the event follows from them.
        tuning: how the best of several such trainings is chosen, as JSON values; `event` is that of all of it then, and
            what else stands here is one trial (with the first clipping norm that is tried). None for one training.
    """

    backend: str
    mechanism: str
    unit: str
    contribution_bound: int
    relation: Relation
    sampler: Sampler
    units: int | None
    epochs: int
    batch_size: int
    steps: int
    clipping_norm: float
    noise_multiplier: float
    delta: float
    event: DpEvent
    engine: str = "native"
    engine_parameters: Mapping[str, Any] = field(default_factory=dict)
    tuning: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if (self.units is None) != (self.relation is Relation.ADD_OR_REMOVE_ONE):
            raise ValueError("the number of units is public under the zero-out relation, and only there")
        if self.sampler is Sampler.SHUFFLED and self.relation is not Relation.ZERO_OUT:
            # Adding a row would move others to other batches; only a row that is blanked leaves the partition as it is.
            raise ValueError("a fixed partition into batches has a guarantee under the zero-out relation only")

    def parameters(self) -> dict[str, Any]:
        """Return the plan's numbers and names without the event, ready for JSON."""
        return {
            "backend": self.backend,
            "mechanism": self.mechanism,
            "unit": self.unit,
            "contribution_bound": self.contribution_bound,
            "relation": self.relation.value,
            "sampler": self.sampler.value,
            "units": self.units,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "steps": self.steps,
            "clipping_norm": self.clipping_norm,
            "noise_multiplier": self.noise_multiplier,
            "delta": self.delta,
            "engine": self.engine,
            "engine_parameters": dict(self.engine_parameters),
            # Left out without tuning, so that the digest of such a plan is what it always was.
            **({} if self.tuning is None else {"tuning": dict(self.tuning)}),
        }

    def digest(self) -> str:
        """Return the SHA-256 over the parameters: part of the reservation's idempotency key."""
        return parameters_digest(self.parameters())

    def require_same(self, again: MechanismPlan) -> None:
        """Refuse to train under a plan that was made again from the config and is not this one, which was reserved.

        Raises:
            PipelineError: parameters or event differ.
        """
        if again.digest() != self.digest() or again.event != self.event:
            raise PipelineError(
                "the config gives another plan than the one whose cost was reserved; nothing was trained"
            )


def parameters_digest(parameters: Mapping[str, Any]) -> str:
    """Return the SHA-256 over a plan's parameters as JSON, hexadecimal."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()
