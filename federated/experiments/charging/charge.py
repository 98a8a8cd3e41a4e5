"""What every charge of an experiment has in common: the plan's figures, and the digest of all that it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from federated.experiments.charging.record import BACKEND
from privacy_pipeline.accounting.plan import Relation, parameters_digest

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from federated.driver.accounted import RoundsPlan


@dataclass(frozen=True, kw_only=True)
class Charge:
    """The part of `accounting.plan.ChargedPlan` that follows from a plan.

    Attributes:
        plan: the mechanism.
        unit: "row", or the key column that names the unit.
        training: the settings that the mechanism does not hold, for the idempotency key.
    """

    plan: RoundsPlan
    unit: str
    training: Mapping[str, Any]

    @property
    def relation(self) -> Relation:
        """Zero-out: the number of units is public."""
        return self.plan.relation

    @property
    def delta(self) -> float:
        """Delta of the guarantee."""
        return self.plan.delta

    @property
    def event(self) -> DpEvent:
        """The DpEvent of a unit over all rounds."""
        return self.plan.event

    def parameters(self) -> dict[str, Any]:
        """Return the plan as JSON values, with the unit's name."""
        return {
            "backend": BACKEND,
            "unit": self.unit,
            "relation": self.relation.value,
            "plan": self.plan.parameters(),
            "training": dict(self.training),
        }

    def digest(self) -> str:
        """Return the SHA-256 over the parameters."""
        return parameters_digest(self.parameters())
