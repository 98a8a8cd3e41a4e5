"""A training split as clients: by the column that names the privacy unit, or dealt out by the config's rule."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from federated.clients.origin import ClientOrigin
from federated.clients.splits import IidSplit, LabelSkewSplit, QuantitySkewSplit, Split, split_rows
from federated.clients.store import ClientStore
from privacy_pipeline.backends.base import TrainingInputs
from privacy_pipeline.backends.example_data import Examples, read_examples
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.config.models.federated_privacy import SyntheticClientsSection


def read_clients(inputs: TrainingInputs, *, names: list[str]) -> tuple[ClientStore, int]:
    """Read the training split.

    Args:
        inputs: what the backend trains on.
        names: the model's inputs.

    Returns:
        The clients, and the rows that were read; of a client with more than `contribution_bound` rows the first ones,
        in the order of the files, are kept.

    Raises:
        BadInputError: no row, a row without a key, or more made-up clients than rows.
    """
    unit = inputs.config.dataset.privacy_unit
    keyed = isinstance(unit, KeyedUnit)
    examples = read_examples(
        inputs.train_files,
        transform_graph=inputs.transform_graph,
        names=names,
        keyed=keyed,
        folder=inputs.work_dir / "examples",
        classes=inputs.features.classes,
    )
    section = inputs.config.training.federated
    if isinstance(unit, KeyedUnit):
        return _named(examples, unit, dataset=inputs.config.dataset.name), len(examples.store)
    if section is None or section.clients is None:  # the config's validation demands it
        raise ValueError("rows without a key need a rule that deals them out to clients")
    made_up = split_rows(rule_of(section.clients), features=examples.store.x, labels=examples.store.y)
    return made_up, len(examples.store)


def rule_of(section: SyntheticClientsSection) -> Split:
    """Return the rule that a config names."""
    if section.rule == "iid":
        return IidSplit(clients=section.clients, seed=section.seed)
    skew = LabelSkewSplit if section.rule == "label_skew" else QuantitySkewSplit
    return skew(clients=section.clients, alpha=float(section.alpha or 0.0), seed=section.seed)


def _named(examples: Examples, unit: KeyedUnit, *, dataset: str) -> ClientStore:
    owners = np.asarray(examples.owners, np.int64)
    kept = first_rows(owners, most=unit.contribution_bound)
    arrays: dict[str, Any] = dict(examples.store.x)
    return ClientStore.from_arrays(
        keys_of_rows=owners[kept],
        features={name: array[kept] for name, array in arrays.items()},
        labels=examples.store.y[kept],
        origin=ClientOrigin(client_is=f"all rows of {dataset} that share one value of '{unit.key}'"),
    )


def first_rows(owners: NDArray[np.int64], *, most: int) -> NDArray[np.int64]:
    """Return the rows that are among the first of their owner, ascending, int64: each owner's depend on no other.

    Args:
        owners: number of the owner of each row, [rows].
        most: rows of an owner at most.
    """
    order = np.argsort(owners, kind="stable")
    ordered = owners[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    place = np.arange(owners.size) - np.repeat(starts, np.diff(np.append(starts, owners.size)))
    return np.sort(order[place < most])
