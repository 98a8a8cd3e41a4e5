"""What the checks before a run found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from privacy_pipeline.accounting.plan import MechanismPlan
from privacy_pipeline.pipelines.nodes import TRAINER

if TYPE_CHECKING:
    from privacy_pipeline.data.schema.features import FeaturePlan
    from privacy_pipeline.ledger.state.entries import Forecast
    from privacy_pipeline.ledger.state.registration import Registration
    from privacy_pipeline.pipelines.preflight.planned_charges import PlannedCharge


@dataclass(frozen=True)
class Checked:
    """Facts about a run that are known before its data is read.

    Attributes:
        features: the feature plan; None where the schema is inferred.
        plan: the mechanism of the training; None for a backend without a guarantee.
        charges: what each node would spend, in the order of the pipeline.
        registration: the registered dataset.
        journalled: whether the ledger will journal the run: it claims no guarantee, but its dataset is registered.
    """

    features: FeaturePlan | None
    plan: MechanismPlan | None
    charges: tuple[PlannedCharge, ...]
    registration: Registration | None
    journalled: bool = False

    @property
    def forecast(self) -> Forecast | None:
        """The ledger's forecast of the training; None where the training costs nothing."""
        return next((charge.forecast for charge in self.charges if charge.ask.node == TRAINER), None)
