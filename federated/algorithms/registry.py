"""Which federated algorithms there are. An algorithm is added by its module and one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from federated.algorithms.algorithm import Algorithm
from federated.algorithms.fedavg import FEDAVG
from federated.algorithms.fedprox import FEDPROX
from federated.algorithms.fedsgd import FEDSGD
from federated.algorithms.mimelite import MIMELITE

if TYPE_CHECKING:
    from privacy_pipeline.config.federated_models import FederatedAlgorithm

_ALL = (
    FEDAVG,
    FEDSGD,
    FEDPROX,
    MIMELITE,
)
REGISTRY = {algorithm.name: algorithm for algorithm in _ALL}


def of(section: FederatedAlgorithm) -> Algorithm:
    """Return the algorithm that a section of the config names.

    Args:
        section: validated, so its name is in the registry.
    """
    return REGISTRY[section.name]
