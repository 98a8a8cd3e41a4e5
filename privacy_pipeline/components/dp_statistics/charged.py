"""What a config's DP statistics ask, what they are charged, and where the result lies. No TFX in here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.schema.features import Column, FeaturePlan
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.charging.sequence import charged
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.registration import TRAIN, Registration
from privacy_pipeline.releases.release import Noisy, Release
from privacy_pipeline.releases.statistics import PURPOSE, DpStatistics, filled_plan, statistics_of, statistics_release
from privacy_pipeline.spans import Span

STATISTICS_FILE = "dp_statistics.json"


class StatisticsRequest(BaseModel):
    """All of config and schema that shapes the release, and nothing else: it is the release's key in TFX's cache.

    So neither another model nor another public column is a reason to release, and to pay, again.

    Attributes:
        ledger: URL of the ledger.
        dataset, span: what is read.
        unit_key: column that names the privacy unit; None where it is the row.
        columns: the columns without range or domain.
        epsilon, delta: of the whole release.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ledger: str
    dataset: str
    span: int | None
    unit_key: str | None
    columns: tuple[Column, ...]
    epsilon: float
    delta: float


class Places(BaseModel):
    """Where pins of the data may lie (`ledger.pins`).

    Attributes:
        data: folders of the data.
        workspace: the workspace.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: tuple[Path, ...]
    workspace: Path


def request_of(config: PipelineConfig, *, features: FeaturePlan | None, span: Span) -> StatisticsRequest | None:
    """Return what a run asks; None where its config has no block `preprocessing.dp`.

    Args:
        config: the config.
        features: the feature plan of its schema.
        span: the span that the run takes.

    Raises:
        BadInputError: the block is there, but the schema leaves nothing out, or there are several spans.
    """
    section = config.preprocessing.dp
    if section is None:
        return None
    columns = [column for column in features.columns if column.is_unknown] if features is not None else []
    if not columns:
        raise BadInputError(
            f"preprocessing.dp: {config.dataset.schema_path} has a range or domain for every column; there is nothing "
            "to release",
            fix="drop the block `preprocessing`",
        )
    if isinstance(span, tuple):  # the config's model refuses it too
        raise BadInputError("preprocessing.dp releases statistics of one span", fix="name one in dataset.span")
    unit = config.dataset.privacy_unit
    return StatisticsRequest(
        ledger=config.ledger,
        dataset=config.dataset.name,
        span=span,
        unit_key=unit.key if isinstance(unit, KeyedUnit) else None,
        columns=tuple(Column(name=c.name, kind=c.kind, dtype=c.dtype) for c in columns),
        epsilon=section.epsilon,
        delta=section.delta,
    )


def release_of(request: StatisticsRequest, *, registration: Registration) -> Release:
    """Return the release that a request asks for: `check`, the reservation and the component take it from here.

    Args:
        request: what is asked.
        registration: the registered dataset.

    Raises:
        BadInputError: the numbers are out of range.
        BudgetRefusedError: the dataset is registered with another privacy unit.
    """
    named = request.unit_key or "row"
    if named != registration.unit:
        raise BudgetRefusedError(
            f"dataset {registration.name} is registered with privacy unit {registration.unit!r}, the config has "
            f"{named!r}",
            fix="let dataset.privacy_unit state what was registered",
        )
    release = statistics_release(
        request.columns, registration=registration, epsilon=request.epsilon, delta=request.delta
    )
    if release is None:
        raise ValueError("a request names columns without range or domain")
    return release


def released_charged(
    request: StatisticsRequest,
    *,
    data_digest: str,
    run_id: str,
    node: str,
    places: Places,
    count: Callable[[Release], Mapping[str, Noisy]],
) -> DpStatistics:
    """Release, with the budget reserved before the first read of data and never given back after it.

    Args:
        request: what is asked.
        data_digest: digest of the source files.
        run_id: the run.
        node: the node that spends.
        places: where pins of the data may lie.
        count: reads the train split, and gives the noisy answers.

    Raises:
        BudgetRefusedError: the ledger refuses; nothing was read.
        BadInputError: nothing of a column stands out of the noise; the budget is spent.
    """
    ledger = Ledger.open(request.ledger)
    pins.require(ledger, pins.places(data=places.data, workspace=places.workspace))
    registration = ledger.registration(request.dataset, request.span)
    if registration is None:
        raise BudgetRefusedError(
            f"dataset {request.dataset!r}, span {request.span}, is not registered for DP statistics"
        )
    release = release_of(request, registration=registration)
    with charged(
        ledger.spend(
            dataset=request.dataset,
            span=request.span,
            data_digest=data_digest,
            split=TRAIN,
            run_id=run_id,
            node=node,
            plan=release.plan,
            purpose=PURPOSE,
        ),
        composition=ledger.composition,
        note=lambda: pins.note_again(ledger, data=places.data, workspace=places.workspace),
    ) as charging:
        charging.start()
        answers = count(release)
        composition, *_ = charging.commit(release.plan.event)
    grant = charging.grant
    found = statistics_of(release, answers, budget=grant.budget, ledger_entry=grant.entry_id)
    return found.model_copy(update={"composition": composition})


def read_statistics(folder: Path) -> DpStatistics:
    """Return the statistics below an artifact's folder.

    Args:
        folder: the artifact's folder.
    """
    return DpStatistics.model_validate_json((folder / STATISTICS_FILE).read_text())


def plan_from(stated: str, statistics: DpStatistics | None) -> FeaturePlan:
    """Return the feature plan that Transform and Trainer use: of the schema, and with what was released.

    Args:
        stated: JSON of the feature plan of the schema.
        statistics: what was released; None where the schema states it all.

    Raises:
        BadInputError: a column has no range or domain, and none was released.
    """
    plan = FeaturePlan.model_validate_json(stated)
    return plan if statistics is None else filled_plan(plan, statistics)
