"""Registers an experiment's dataset with the ledger."""

from __future__ import annotations

import datetime

from federated.experiments.config import ExperimentConfig
from federated.experiments.data import feature_plan, source_of
from privacy_pipeline.accounting.ledger import Ledger
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.registration import Registration, SplitCount
from privacy_pipeline.config.models import KeyedUnit
from privacy_pipeline.data.source import count_units
from privacy_pipeline.errors import BadInputError


def register_clients(config: ExperimentConfig, *, epsilon: float, delta: float) -> Registration:
    """Counts clients and rows of each split and opens the dataset's budget; the ledger is made where there is none.

    Args:
        config: the experiment; its dataset has a key column.
        epsilon: cap of the budget over all runs.
        delta: delta of the cap.

    Raises:
        BadInputError: no key column, a client in both splits, a row without key, or other facts than registered.
    """
    dataset = config.data.dataset
    unit = dataset.privacy_unit
    if not isinstance(unit, KeyedUnit):
        raise BadInputError("data.dataset.privacy_unit names no key column, so no client can be registered")
    source = source_of(config.data)
    registration = Registration(
        dataset=dataset.name,
        span=source.span,
        unit=unit.key,
        contribution_bound=unit.contribution_bound,
        relation=Relation.ZERO_OUT,
        splits={
            n: SplitCount(rows=c.rows, units=c.units) for n, c in count_units(source=source, dataset=dataset).items()
        },
        columns=tuple(column.name for column in feature_plan(config.data).columns),
        digest=source.digest(),
        registered=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    Ledger.open(config.ledger, create=True).register(registration, epsilon=epsilon, delta=delta)
    return registration
