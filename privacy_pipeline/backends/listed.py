"""Which module holds which backend. A backend is added by its module and one line here. Imports no backend."""

from __future__ import annotations

from dataclasses import dataclass

from privacy_pipeline.accounting.plan import Relation


@dataclass(frozen=True)
class Listed:
    """Where a backend is found, below `privacy_pipeline.backends`.

    Attributes:
        place: module and class of the backend.
        settings: module and pydantic model of `training.settings`; None for a backend that has none.
        relation: neighbouring relation of the guarantee that each of its runs claims; None for a backend that claims
            none, or whose own block of the config decides.
    """

    place: str
    settings: str | None = None
    relation: Relation | None = None


FOLDER = "privacy_pipeline.backends"
BACKENDS = {
    "plain": Listed("plain:PlainBackend"),
    "dp_sgd": Listed("dp_sgd:DpSgdBackend"),
    "federated": Listed("federated:FederatedBackend"),
    "encrypted": Listed("encrypted:EncryptedBackend"),
}
