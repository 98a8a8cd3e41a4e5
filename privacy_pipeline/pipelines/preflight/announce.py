"""The privacy class that a config promises. Imports no TFX."""

from __future__ import annotations

from privacy_pipeline.accounting.record import privacy_class
from privacy_pipeline.backends import registry
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.config.models.pipeline import PipelineConfig


def announced_class(config: PipelineConfig) -> str:
    """Return the privacy class that the config promises; PrivacyGate refuses a record that does not reach it."""
    unit = config.dataset.privacy_unit
    private = config.training.claims_guarantee and config.training.seed is None
    relation = registry.relation_of(config)
    return privacy_class(
        guarantee="dp" if private else "none",
        unit=unit.key if isinstance(unit, KeyedUnit) else "row",
        relation=relation.value if private and relation else None,
    )
