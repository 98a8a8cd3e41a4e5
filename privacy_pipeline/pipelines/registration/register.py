"""Register a dataset with the ledger: its splits, units and digest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.backends import registry
from privacy_pipeline.backends.simulation import federated_silos
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.covered_digests import new_secret
from privacy_pipeline.data import private_copy, source
from privacy_pipeline.data.counting.row_digests import RowHasher
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.read_once import reading_once
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.policy import Policy
from privacy_pipeline.ledger.state.registration import Registration, SplitCount, division_of
from privacy_pipeline.pipelines.execution.execute import now
from privacy_pipeline.pipelines.preflight import preflight
from privacy_pipeline.pipelines.workspace.workspace import Workspace
from privacy_pipeline.spans import span_words

if TYPE_CHECKING:
    from privacy_pipeline.data.private_copy import PrivateCopy
    from privacy_pipeline.data.schema.features import FeaturePlan


@reading_once()
def register_dataset(
    *,
    config: PipelineConfig,
    epsilon: float,
    delta: float,
    policy: Policy | None = None,
    disjoint: bool = False,
    existing_key: bool = False,
    id_space: str = "",
    reason: str = "",
    distinct_rows: str = "",
    tell: Callable[[str], None] = lambda _: None,
) -> Registration:
    """Count rows and units of every split, and register them with the data's digest.

    Args:
        config: names the dataset, its files, split and privacy unit.
        epsilon: cap of the budget over all runs.
        delta: delta at which the cap applies, between 0 and 1.
        policy: applied with the registration, or nothing is registered; its cap is the given one.
        disjoint: gives the span its own budget, if its units are proven to be in no other span.
        existing_key: a new ledger uses the key that exists.
        id_space: numbering of the units' keys, where it is not that of the ledger.
        reason: why the keys have their own numbering.
        distinct_rows: why rows that also occur in other datasets belong to other people.
        tell: called with facts that a person should know although they are not errors.

    Raises:
        BadInputError: the cap is not usable, the policy is of another dataset or unit, files are missing, the stated
            numbers of units of the silos are not those of the data, or the dataset is registered with other facts.
        BudgetRefusedError: the data, or the workspace, belongs to another ledger.
    """
    if not epsilon > 0:
        raise BadInputError(f"--epsilon must be greater than 0 (got {epsilon:g})", fix="--epsilon 10")
    if not 0 < delta < 1:
        raise BadInputError(f"--delta must lie between 0 and 1 (got {delta:g})", fix="--delta 1e-5")
    if policy is not None:
        _check_policy(config, policy)
    if isinstance(config.dataset.span, tuple):
        raise BadInputError(
            f"dataset.span: {span_words(config.dataset.span)} are registered one by one; a run may then read them "
            "together",
            fix=f"--set dataset.span={config.dataset.span[0]}, and so on",
        )
    folders, workspace = source.folders_of(config.dataset), Workspace(config).root
    known = pins.open_pinned(config.ledger, data=folders, workspace=workspace)
    secret = new_secret() if known is None else known.digest_secret()
    features = preflight.read_features(config)
    resolved = preflight.check_source(config, features)
    with private_copy.taken(resolved, below=Workspace(config).reading) as copy, copy.original_names():
        registration, contents = _read(config, copy, features, secret, tell)
    registration = dataclasses.replace(
        registration, id_space=id_space, reasons=_reasons(id_space=id_space, reason=reason, distinct_rows=distinct_rows)
    )
    ledger = Ledger.open(config.ledger, create=True, existing_key=existing_key)
    ledger.digest_secret(first=secret)
    ledger.register(
        registration,
        epsilon=epsilon,
        delta=delta,
        policy=policy,
        units=contents.keys,
        rows=contents.rows,
        disjoint=disjoint,
    )
    pins.leave(ledger, data=config.dataset.path, workspace=workspace, tell=tell)
    return ledger.registration(registration.dataset, registration.span) or registration


def _read(
    config: PipelineConfig,
    copy: PrivateCopy,
    features: FeaturePlan | None,
    secret: bytes,
    tell: Callable[[str], None],
) -> tuple[Registration, source.Contents]:
    """All that is registered about the data; every reading is of the same copy."""
    unit = config.dataset.privacy_unit
    for note in preflight.look_through(config, copy.source, features):
        tell(note)
    contents = source.read_contents(source=copy.source, dataset=config.dataset, hasher=RowHasher(secret))
    splits, column = _counts(config, contents, copy), config.training.silo_column
    if column is not None:
        counted = source.count_silos(source=copy.source, dataset=config.dataset, column=column)
        federated_silos.require_stated(config, counted)
    registration = Registration(
        dataset=config.dataset.name,
        span=copy.source.span,
        unit=_unit(config),
        contribution_bound=unit.contribution_bound if isinstance(unit, KeyedUnit) else 1,
        relation=registry.relation_of(config) or Relation.ZERO_OUT,
        splits=splits,
        columns=tuple(c.name for c in features.columns) if features else (),
        digest=copy.source.plain_digest(),
        registered=now(),
        division=division_of(config.dataset),
    )
    return registration, contents


def _unit(config: PipelineConfig) -> str:
    unit = config.dataset.privacy_unit
    return unit.key if isinstance(unit, KeyedUnit) else "row"


def _check_policy(config: PipelineConfig, policy: Policy) -> None:
    """Check the policy before the data is counted, which takes time."""
    for field, said, known in (
        ("dataset", policy.dataset, config.dataset.name),
        ("unit", policy.unit, _unit(config)),
    ):
        if said != known:
            raise BadInputError(
                f"policy: {field}: {said!r}, but the config has {known!r}; nothing was registered",
                fix=f"{field}: {known}",
            )


def _reasons(*, id_space: str, reason: str, distinct_rows: str) -> dict[str, str]:
    """Return a person's declarations about the data, with the reasons; they are journalled.

    Raises:
        BadInputError: an own numbering has no reason, or a reason does not name its numbering.
    """
    if bool(id_space) != bool(reason.strip()):
        raise BadInputError(
            "a separate numbering of keys needs a name and a reason: its keys are not compared with other keys",
            fix='--id-space hospital --reason "numbers of the hospital, which are not persons of the census"',
        )
    found = {"id_space": reason.strip(), "distinct_rows": distinct_rows.strip()}
    return {name: why for name, why in found.items() if why}


def _counts(config: PipelineConfig, contents: source.Contents, copy: PrivateCopy) -> dict[str, SplitCount]:
    counts = contents.counts
    if counts is None:
        # Rows without a key are split by the hash of the serialized example, which only ExampleGen makes.
        from privacy_pipeline.pipelines.registration.count_rows import count_hashed_rows

        return count_hashed_rows(config, folder=copy.folder)
    return {name: SplitCount(rows=c.rows, units=c.units) for name, c in counts.items()}
