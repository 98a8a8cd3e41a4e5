"""Checks of a run's mechanism on made-up updates, before its charge is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from federated.experiments.charging import privacy, silos
from privacy_pipeline.errors import PipelineError

if TYPE_CHECKING:
    from federated.experiments.charging.record import Audits, Charge
    from federated.experiments.config import ExperimentConfig


def verified(config: ExperimentConfig, charge: Charge) -> Audits:
    """Measure the noise of a run's mechanism, and audit it where the settings ask for that. No data is read.

    Raises:
        PipelineError: the noise is not the one that is accounted, or the audit contradicts the plan.
    """
    from federated.privacy.audit import audit_aggregation
    from federated.privacy.noise_check import require_noise

    if not isinstance(charge, privacy.ChargedExperiment | silos.ChargedSilos):
        raise PipelineError(f"no check is known for the charge {type(charge).__name__}")
    require_noise(charge.plan)
    section = config.privacy or config.silo_privacy
    if section is None or section.audit == "none":
        return ()
    result = audit_aggregation(charge.plan)
    result.require_sound()
    return (result.to_json(),)
