"""The clients of an experiment: train and eval split, each as a client store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from federated.clients.store import ClientStore
from federated.experiments.sections import ByRule, DataSection
from federated.silos.records import SiloRecords
from federated.tables import clients_by_rule, clients_from_table, name_of, rows_of, silos_from_table
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.data.counting.survey import Survey, survey
from privacy_pipeline.data.files import ResolvedSource, resolve
from privacy_pipeline.data.schema.features import FeaturePlan
from privacy_pipeline.data.schema.schema_reader import read_feature_plan
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.state.registration import Registration


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Both splits, read and parsed as a whole.

    Attributes:
        train: clients to train on; the silos where those protect their records.
        evaluation: clients of the eval split.
        silos: the records of the silos, where those protect them.
    """

    train: ClientStore
    evaluation: ClientStore
    silos: SiloRecords | None = None


def source_of(data: DataSection) -> ResolvedSource:
    """Return the files of both splits; no row is read.

    Raises:
        BadInputError: a file is missing.
    """
    return resolve(dataset=data.dataset)


def feature_plan(data: DataSection) -> FeaturePlan:
    """Return public domains and ranges; the clients' column is not an input.

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


def look_through(data: DataSection, *, source: ResolvedSource, known: Registration | None = None) -> Survey:
    """Read all rows of both splits before anything is started.

    Numbers beyond the public range are not a mistake here: they are clipped to it when they are encoded.

    Args:
        data: the config's section.
        source: see `source_of`.
        known: the registration that rows and units have to be those of; None where there is none.

    Raises:
        BadInputError: a row, a cell or a key is one that a pipeline would refuse, or no CSV file is read.
        BudgetRefusedError: a number of rows or units is not the registered one.
    """
    dataset = data.dataset
    plan = feature_plan(data)
    columns = tuple(column.model_copy(update={"minimum": None, "maximum": None}) for column in plan.columns)
    found = survey(source=source, dataset=dataset, features=plan.model_copy(update={"columns": columns}))
    if found is None:
        raise BadInputError(f"{dataset.path}: experiments read CSV files alone", fix="set data.dataset.format: csv")
    if known is not None:
        _require_registered(found, known)
    return found


def _require_registered(found: Survey, known: Registration) -> None:
    """Refuse rows and units that are not those of the registration, where that costs nothing yet."""
    for split, registered in known.splits.items():
        counted = (found.counts or {}).get(split)
        rows = found.rows[split] if counted is None else counted.rows
        units = rows if counted is None else counted.units
        if (rows, units) != (registered.rows, registered.units):
            raise BudgetRefusedError(
                f"split {split!r} of {known.name}: the files hold another number of rows or units than was registered; "
                "nothing was started and nothing is charged",
                fix="restore the registered files, or register the new ones as a span of their own",
            )


def load_clients(
    data: DataSection, *, split: str, source: ResolvedSource, plan: FeaturePlan, name: str = ""
) -> ClientStore:
    """Read one split and group its rows by client.

    Args:
        data: the config's section.
        split: "train" or "eval".
        source: see `source_of`.
        plan: see `feature_plan`.
        name: of the files in messages and records; their own by default.

    Raises:
        BadInputError: a column or key is missing, or a client has more rows than `contribution_bound`.
    """
    files = source.files[split]
    common: dict[str, Any] = {"label": data.dataset.label, "plan": plan, "name": name}
    if isinstance(data.clients, ByRule):
        clients = data.clients.clients
        if split == "eval":  # as large as the clients of the train split, where there are rows enough
            clients = max(1, min(clients, rows_of(files)))
        return clients_by_rule(files, rule=data.clients.split(clients=clients), **common)
    column = data.client_column
    if column is None:  # refused by DataSection
        raise BadInputError("no column names the clients")
    store = clients_from_table(files, key=column, **common)
    unit = data.dataset.privacy_unit
    if isinstance(unit, KeyedUnit) and unit.key == column:
        _require_bound(store, unit.contribution_bound, name or name_of(files))
    return store


def load_silos(data: DataSection, *, source: ResolvedSource, plan: FeaturePlan, name: str = "") -> SiloRecords:
    """Read the train split and group its rows by silo.

    Args:
        data, source, plan, name: as in `load_clients`.

    Raises:
        BadInputError: a column, a silo or a key is missing, or a privacy unit has rows in two silos.
    """
    column, unit = data.client_column, data.dataset.privacy_unit
    if column is None:  # refused by ExperimentConfig
        raise BadInputError("no column names the silo of a row")
    owner = unit.key if isinstance(unit, KeyedUnit) else None
    return silos_from_table(
        source.files["train"], silo=column, owner=owner, label=data.dataset.label, plan=plan, name=name
    )


def _require_bound(store: ClientStore, bound: int, name: str) -> None:
    largest = int(store.counts.argmax())
    if store.counts[largest] > bound:
        raise BadInputError(
            f"{name}: client {store.keys[largest]!r} has {store.counts[largest]:,} rows, more than the "
            f"contribution_bound {bound:,} of dataset.privacy_unit",
            fix="raise contribution_bound (and register the dataset with it), or remove rows",
        )
