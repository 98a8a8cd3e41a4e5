"""Registers an experiment's dataset with the ledger."""

from __future__ import annotations

import datetime
from collections.abc import Callable

from federated.experiments.binding import reading
from federated.experiments.config import ExperimentConfig
from federated.experiments.data import feature_plan, look_through, source_of
from federated.silos.records import stated
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.covered_digests import new_secret
from privacy_pipeline.data import private_copy
from privacy_pipeline.data.counting.row_digests import RowHasher
from privacy_pipeline.data.source import Contents, ResolvedSource, count_silos, folders_of, read_contents
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.read_once import reading_once
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.registration import Registration, SplitCount, division_of


@reading_once()
def register_clients(
    config: ExperimentConfig, *, epsilon: float, delta: float, tell: Callable[[str], None] = lambda _: None
) -> Registration:
    """Count clients and rows of each split and open the dataset's budget; the ledger is made where there is none.

    Args:
        config: the experiment; its dataset has a key column, or it has `silo_privacy` for rows.
        epsilon: cap of the budget over all runs.
        delta: delta of the cap.
        tell: called with what a person should know although it is not an error.

    Raises:
        BadInputError: no key column, a client in both splits, a row without key, stated silos that are not those of
            the data, or other facts than registered.
        BudgetRefusedError: the data, or the folder of runs, belongs to another ledger.
    """
    dataset = config.data.dataset
    if not isinstance(dataset.privacy_unit, KeyedUnit) and config.silo_privacy is None:
        raise BadInputError("data.dataset.privacy_unit names no key column, so no client can be registered")
    known = pins.open_pinned(config.ledger, data=folders_of(dataset), workspace=config.folder)
    secret = new_secret() if known is None else known.digest_secret()
    with private_copy.taken(source_of(config.data), below=reading(config)) as copy, copy.original_names():
        registration, contents = _read(config, copy.source, secret, tell)
    ledger = Ledger.open(config.ledger, create=True)
    ledger.digest_secret(first=secret)
    ledger.register(registration, epsilon=epsilon, delta=delta, units=contents.keys, rows=contents.rows)
    pins.leave(ledger, data=dataset.path, workspace=config.folder, tell=tell)
    return registration


def _read(
    config: ExperimentConfig, source: ResolvedSource, secret: bytes, tell: Callable[[str], None]
) -> tuple[Registration, Contents]:
    """Return all that is registered of the data: every reading is one of the same private copy."""
    dataset, unit = config.data.dataset, config.data.dataset.privacy_unit
    for note in look_through(config.data, source=source).notes:
        tell(note)
    contents = read_contents(source=source, dataset=dataset, hasher=RowHasher(secret))
    if config.silo_privacy is not None:
        _require_stated(config, source)
    registration = Registration(
        dataset=dataset.name,
        span=source.span,
        unit=unit.key if isinstance(unit, KeyedUnit) else "row",
        contribution_bound=unit.contribution_bound if isinstance(unit, KeyedUnit) else 1,
        relation=Relation.ZERO_OUT,
        splits={n: SplitCount(rows=c.rows, units=c.units) for n, c in (contents.counts or {}).items()},
        columns=tuple(column.name for column in feature_plan(config.data).columns),
        digest=source.plain_digest(),
        registered=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        division=division_of(dataset),
    )
    return registration, contents


def _require_stated(config: ExperimentConfig, source: ResolvedSource) -> None:
    """Refuse stated numbers of units that are not those of the data, where they cost nothing yet."""
    section, column = config.silo_privacy, config.data.client_column
    if section is None or column is None:  # refused by ExperimentConfig
        return
    counted = count_silos(source=source, dataset=config.data.dataset, column=column)
    if counted is not None and section.silos != counted:
        raise BadInputError(
            "silo_privacy.silos: these are not the numbers of units in the train split; nothing was registered",
            fix=f"silos: {stated(counted)}",
        )
