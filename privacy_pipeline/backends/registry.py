"""Finds the backend of a config."""

from __future__ import annotations

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.backends.base import Backend
from privacy_pipeline.backends.listed import BACKENDS, load
from privacy_pipeline.config.models.pipeline import PipelineConfig


def relation_of(config: PipelineConfig) -> Relation | None:
    """Return the neighbouring relation of a config's backend's guarantee; None where it states none."""
    if not config.training.claims_guarantee:
        return None
    if config.training.dp_sgd is not None:
        return Relation(config.training.dp_sgd.relation)
    return BACKENDS[config.training.backend].relation or Relation.ZERO_OUT


def names() -> list[str]:
    """Names that a config may give as `training.backend`."""
    return sorted(BACKENDS)


def of(config: PipelineConfig) -> Backend:
    """Return what trains a config: its backend, or with `training.tuning` several trials of it."""
    if config.training.tuning is None:
        return load(config.training.backend)
    from privacy_pipeline.backends.tuning import TunedBackend

    return TunedBackend(config.training.backend)
