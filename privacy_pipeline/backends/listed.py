"""Which module holds which backend. A backend is added by its module and one line here; it is imported when loaded."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privacy_pipeline.accounting.plan import Relation

if TYPE_CHECKING:
    from privacy_pipeline.backends.base import Backend


@dataclass(frozen=True)
class Listed:
    """Where a backend is found, below `privacy_pipeline.backends`.

    Attributes:
        place: module and class of the backend.
        settings: module and pydantic model of `training.settings`; None for a backend that has none.
        relation: neighbouring relation of the guarantee that each of its runs claims; None for a backend that claims
            none, or whose own block of the config decides.
        block: the key of `training` whose block goes with this backend alone, or with one that trains with it.
        tunable: whether `training.tuning` may train several of it.
        dp_statistics: whether `preprocessing.dp` may release statistics for it. Under a backend that protects nothing
            they would protect nothing, and in federated learning nobody holds all rows to release statistics of them.
    """

    place: str
    settings: str | None = None
    relation: Relation | None = None
    block: str | None = None
    tunable: bool = False
    dp_statistics: bool = False


FOLDER = "privacy_pipeline.backends"
BACKENDS = {
    "plain": Listed("plain:PlainBackend", tunable=True),
    "dp_sgd": Listed("dp_sgd:DpSgdBackend", block="dp_sgd", tunable=True, dp_statistics=True),
    "federated": Listed("federated:FederatedBackend", block="federated"),
    "encrypted": Listed("encrypted:EncryptedBackend", block="encrypted"),
}


def load(name: str) -> Backend:
    """Return the backend of that name; its module is imported only now.

    Raises:
        KeyError: no such backend.
    """
    backend: Backend = pkgutil.resolve_name(f"{FOLDER}.{BACKENDS[name].place}")()
    return backend
