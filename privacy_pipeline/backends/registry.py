"""Which module holds which backend. A backend is added by its module and one line here."""

from __future__ import annotations

import importlib

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.backends.base import Backend

_BACKENDS = {
    "plain": "privacy_pipeline.backends.plain:PlainBackend",
    "dp_sgd": "privacy_pipeline.backends.dp_sgd:DpSgdBackend",
}


# Backends that never claim a training guarantee, and so never ask the ledger.
WITHOUT_GUARANTEE = frozenset({"plain"})

# Neighbouring relation under which a backend states its guarantee.
RELATIONS = {"dp_sgd": Relation.ZERO_OUT.value}


def names() -> list[str]:
    """Names that a config may give as `training.backend`."""
    return sorted(_BACKENDS)


def load(name: str) -> Backend:
    """The backend of that name; its module is imported only now.

    Raises:
        KeyError: no such backend.
    """
    module, _, cls = _BACKENDS[name].partition(":")
    backend: Backend = getattr(importlib.import_module(module), cls)()
    return backend
