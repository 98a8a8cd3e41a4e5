"""The clients of an experiment: train and eval split, each as a client store."""

from __future__ import annotations

from typing import Any

from federated.clients.store import ClientStore
from federated.clients.tables import clients_by_rule, clients_from_table, read_csv, silos_from_table
from federated.experiments.config import ByRule, DataSection
from federated.silos.records import SiloRecords
from privacy_pipeline.config.models import KeyedUnit
from privacy_pipeline.data.features import FeaturePlan
from privacy_pipeline.data.files import ResolvedSource, resolve
from privacy_pipeline.data.schema_reader import read_feature_plan
from privacy_pipeline.errors import BadInputError


def source_of(data: DataSection) -> ResolvedSource:
    """The files of both splits; no row is read.

    Raises:
        BadInputError: a file is missing.
    """
    return resolve(dataset=data.dataset)


def feature_plan(data: DataSection) -> FeaturePlan:
    """Public domains and ranges; the clients' column is no input.

    Raises:
        BadInputError: the schema cannot be read, or lacks something.
    """
    dataset = data.dataset
    if dataset.schema_path == "infer":  # refused by DataSection
        raise BadInputError("an experiment needs a curated public schema")
    unit = dataset.privacy_unit
    key = unit.key if isinstance(unit, KeyedUnit) else None
    plan = read_feature_plan(
        schema_path=dataset.schema_path, label=dataset.label, positive_class=dataset.positive_class, unit_key=key
    )
    columns = tuple(column for column in plan.columns if column.name != data.client_column)
    return plan.model_copy(update={"columns": columns})


def load_clients(data: DataSection, *, split: str, source: ResolvedSource, plan: FeaturePlan) -> ClientStore:
    """Reads one split and groups its rows by client.

    Args:
        data: the config's section.
        split: "train" or "eval".
        source: see `source_of`.
        plan: see `feature_plan`.

    Raises:
        BadInputError: a column or key is missing, or a client has more rows than `contribution_bound`.
    """
    table, name = _table(source, split)
    common: dict[str, Any] = {"label": data.dataset.label, "plan": plan, "name": name}
    if isinstance(data.clients, ByRule):
        clients = data.clients.clients
        if split == "eval":  # as large as the clients of the train split, where there are rows enough
            clients = max(1, min(clients, len(table)))
        return clients_by_rule(table, rule=data.clients.split(clients=clients), **common)
    column = data.client_column
    if column is None:  # refused by DataSection
        raise BadInputError("nothing says who the clients are")
    store = clients_from_table(table, key=column, **common)
    unit = data.dataset.privacy_unit
    if isinstance(unit, KeyedUnit) and unit.key == column:
        _require_bound(store, unit.contribution_bound, name)
    return store


def load_silos(data: DataSection, *, source: ResolvedSource, plan: FeaturePlan) -> SiloRecords:
    """Reads the train split and groups its rows by silo.

    Args:
        data, source, plan: as in `load_clients`.

    Raises:
        BadInputError: a column, a silo or a key is missing, or a privacy unit has rows in two silos.
    """
    table, name = _table(source, "train")
    column, unit = data.client_column, data.dataset.privacy_unit
    if column is None:  # refused by ExperimentConfig
        raise BadInputError("nothing says which silo a row is in")
    owner = unit.key if isinstance(unit, KeyedUnit) else None
    return silos_from_table(table, silo=column, owner=owner, label=data.dataset.label, plan=plan, name=name)


def _table(source: ResolvedSource, split: str) -> tuple[Any, str]:
    import pandas as pd

    files = source.files[split]
    tables = [read_csv(file) for file in files]
    return pd.concat(tables, ignore_index=True), str(files[0]) if len(
        files
    ) == 1 else f"{files[0]} and {len(files) - 1} more"


def _require_bound(store: ClientStore, bound: int, name: str) -> None:
    largest = int(store.counts.argmax())
    if store.counts[largest] > bound:
        raise BadInputError(
            f"{name}: client {store.keys[largest]!r} has {store.counts[largest]:,} rows, more than the "
            f"contribution_bound {bound:,} of dataset.privacy_unit",
            fix="raise contribution_bound (and register the dataset with it), or remove rows",
        )
