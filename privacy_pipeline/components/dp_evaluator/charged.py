"""What a config's DP evaluation asks, what it is charged, and where its result lies. No TFX in here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.files import folders_of
from privacy_pipeline.errors import BudgetRefusedError
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.charging.sequence import charged
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.registration import Registration, division_of
from privacy_pipeline.releases.evaluation import PURPOSE, SPLIT, DpEvaluation, evaluated, evaluation_release
from privacy_pipeline.releases.release import Noisy, Release

EVALUATION_FILE = "dp_evaluation.json"
Domains = Mapping[str, tuple[str, ...]]


def release_of(config: PipelineConfig, *, domains: Domains, registration: Registration) -> Release:
    """Return what the evaluation asks: `check`, the reservation and the component take it from here.

    Args:
        config: the config; it has a block `evaluation.dp`.
        domains: public values of the columns that are sliced by.
        registration: the registered dataset.

    Raises:
        BadInputError: a column has no public domain, or the numbers are out of range.
        BudgetRefusedError: the registration has no eval split, or another privacy unit.
    """
    section = config.evaluation.dp
    if section is None:
        raise ValueError("the config asks for no DP evaluation")
    unit = config.dataset.privacy_unit
    named = unit.key if isinstance(unit, KeyedUnit) else "row"
    if named != registration.unit:
        raise BudgetRefusedError(
            f"dataset {registration.name} is registered with privacy unit {registration.unit!r}, the config has "
            f"{named!r}",
            fix="let dataset.privacy_unit state what was registered",
        )
    return evaluation_release(
        config.evaluation.slices,
        registration=registration,
        domains=domains,
        epsilon=section.epsilon,
        delta=section.delta,
    )


def evaluate_charged(
    config: PipelineConfig,
    *,
    domains: Domains,
    data_digest: str,
    run_id: str,
    node: str,
    count: Callable[[Release], Mapping[str, Noisy]],
) -> DpEvaluation:
    """Evaluate, with the budget reserved before the first read of data and never given back after it.

    Args:
        config: the config.
        domains: public values of the columns that are sliced by.
        data_digest: digest of the source files.
        run_id: the run.
        node: the node that spends.
        count: reads the eval split, and gives the noisy answers.

    Raises:
        BudgetRefusedError: the ledger refuses; nothing was read.
    """
    ledger, dataset = Ledger.open(config.ledger), config.dataset
    pins.require(ledger, pins.places(data=folders_of(dataset), workspace=config.workspace))
    section, span = config.evaluation.dp, dataset.named_span
    registration = ledger.registration(dataset.name, span)
    if registration is None or section is None:
        raise BudgetRefusedError(f"dataset {dataset.name!r}, span {span}, is not registered for a DP evaluation")
    release = release_of(config, domains=domains, registration=registration)
    with charged(
        ledger.spend(
            dataset=dataset.name,
            span=span,
            data_digest=data_digest,
            split=SPLIT,
            run_id=run_id,
            node=node,
            plan=release.plan,
            purpose=PURPOSE,
            division=division_of(dataset),
        ),
        composition=ledger.composition,
        note=lambda: pins.note_again(ledger, data=folders_of(dataset), workspace=config.workspace),
    ) as charging:
        charging.start()
        answers = count(release)
        composition, *_ = charging.commit(release.plan.event)
    found = evaluated(
        release,
        answers,
        decision_threshold=section.decision_threshold,
        budget=charging.grant.budget,
        ledger_entry=charging.grant.entry_id,
    )
    return found.model_copy(update={"composition": composition})


def read_evaluation(folder: Path) -> DpEvaluation | None:
    """Return the DP evaluation below an artifact's folder; None where the evaluation there is an exact one."""
    path = folder / EVALUATION_FILE
    return DpEvaluation.model_validate_json(path.read_text()) if path.exists() else None
