"""Which federated algorithms there are. An algorithm is added by its module and one line here."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from federated.algorithms.algorithm import Algorithm
    from privacy_pipeline.config.models.federated import FederatedAlgorithm

_FOLDER = "federated.algorithms"
_ALGORITHMS = (
    "fedavg:FEDAVG",
    "fedsgd:FEDSGD",
    "fedprox:FEDPROX",
    "mimelite:MIMELITE",
)
_FOUND: tuple[Algorithm, ...] = tuple(pkgutil.resolve_name(f"{_FOLDER}.{place}") for place in _ALGORITHMS)
REGISTRY = {algorithm.name: algorithm for algorithm in _FOUND}


def of(section: FederatedAlgorithm) -> Algorithm:
    """Return the algorithm that a section of the config names.

    Args:
        section: validated, so its name is in the registry.
    """
    return REGISTRY[section.name]
