"""Which module holds which backend. A backend is added by its module and one line here."""

from __future__ import annotations

import importlib

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.backends.base import Backend
from privacy_pipeline.config.models import PipelineConfig

_BACKENDS = {
    "plain": "privacy_pipeline.backends.plain:PlainBackend",
    "dp_sgd": "privacy_pipeline.backends.dp_sgd:DpSgdBackend",
    "encrypted": "privacy_pipeline.backends.encrypted:EncryptedBackend",
    "federated": "privacy_pipeline.backends.federated:FederatedBackend",
}


def relation_of(config: PipelineConfig) -> Relation | None:
    """Return the neighbouring relation of a config's backend's guarantee; None where it states none."""
    if not config.training.claims_guarantee:
        return None
    return Relation(config.training.dp_sgd.relation) if config.training.dp_sgd else Relation.ZERO_OUT


def names() -> list[str]:
    """Return the names that a config may give as `training.backend`."""
    return sorted(_BACKENDS)


def of(config: PipelineConfig) -> Backend:
    """Return what trains a config: its backend, or with `training.tuning` several trials of it."""
    if config.training.tuning is None:
        return load(config.training.backend)
    from privacy_pipeline.backends.tuning import TunedBackend

    return TunedBackend(config.training.backend)


def load(name: str) -> Backend:
    """Return the backend of that name; its module is imported only now.

    Raises:
        KeyError: no such backend.
    """
    module, _, cls = _BACKENDS[name].partition(":")
    backend: Backend = getattr(importlib.import_module(module), cls)()
    return backend
