"""Audit the plan of a config or of a run, and keep the results. Reads no private data and charges nothing."""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING

from privacy_pipeline.backends import private_plan
from privacy_pipeline.backends.tuning import at_point, first_trial
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data import source
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.files.atomic import write_atomically
from privacy_pipeline.pipelines.preflight import preflight
from privacy_pipeline.pipelines.reporting.readings import AUDITS, later_audits_of
from privacy_pipeline.pipelines.workspace.workspace import RunFolder

if TYPE_CHECKING:
    from privacy_pipeline.dp.attacks.audit import AuditResult
    from privacy_pipeline.dp.plan import PrivacyPlan


def plan_of_config(config: PipelineConfig) -> PrivacyPlan:
    """Return the plan that a config would run under, with the registered number of units.

    Raises:
        BadInputError: the config claims no guarantee, or trains with another engine than the audited one.
        BudgetRefusedError: the dataset is not registered.
    """
    _require_auditable(config)
    span = source.resolve(dataset=config.dataset).span
    mechanism = preflight.check(config, span=span).plan
    if mechanism is None:
        raise _nothing_to_audit()
    if mechanism.tuning is not None:  # audit the mechanism of each trial
        config, mechanism = first_trial(config, mechanism)
    return private_plan.reserved_plan(config, mechanism)


def plan_of_run(folder: RunFolder) -> PrivacyPlan:
    """Return the plan of a finished run, made again from its config and compared with the one in its record.

    Raises:
        BadInputError: the run has no record yet, or claims no guarantee.
        PipelineError: the record holds another plan than the config gives.
    """
    summary = folder.read_summary()
    if summary is None:
        raise BadInputError(f"run {folder.run_id} has no privacy record yet", fix="wait for it, or audit its config")
    config, mechanism = folder.read_spec().config, summary.record.mechanism
    if summary.record.training_guarantee != "dp" or mechanism is None:
        raise _nothing_to_audit()
    _require_auditable(config)
    if summary.record.tuning is not None:
        config = at_point(config, summary.record.tuning.chosen)
    plan = private_plan.privacy_plan(config, units=mechanism.units, noise_multiplier=mechanism.noise_multiplier)
    if plan.parameters() != mechanism.plan:
        raise PipelineError(
            f"the record of run {folder.run_id} holds another plan than its config gives today",
            fix="audit it with the version of privacy-pipeline that ran it",
        )
    return plan


def _require_auditable(config: PipelineConfig) -> None:
    if not config.training.claims_guarantee:
        raise _nothing_to_audit()
    if config.training.dp_sgd is None:
        raise BadInputError(f"backend {config.training.backend} has no audit", fix="audit a dp_sgd run")
    if config.training.dp_sgd.engine != "native":
        raise BadInputError(
            f"engine {config.training.dp_sgd.engine} has no audit", fix="set training.dp_sgd.engine: native"
        )


def _nothing_to_audit() -> BadInputError:
    return BadInputError("no training guarantee is claimed, so there is nothing to audit", fix="set backend: dp_sgd")


def audit(
    config: PipelineConfig, plan: PrivacyPlan, *, canaries: int | None, confidence: float, training: bool
) -> list[AuditResult]:
    """Audit a plan's mechanism and, on made-up rows, a training under it.

    Args:
        config: the config whose model is trained.
        plan: the plan.
        canaries: number of canaries of each audit; None for a number that suits it.
        confidence: confidence of each lower bound.
        training: whether to train.

    Raises:
        BadInputError: this plan or model cannot be audited.
    """
    from privacy_pipeline.dp.attacks.audit import (
        MECHANISM_CANARIES,
        TRAINING_CANARIES,
        audit_mechanism,
        audit_training,
    )

    results = [audit_mechanism(plan, canaries=canaries or MECHANISM_CANARIES, confidence=confidence)]
    if training:
        from privacy_pipeline.pipelines.preflight.synthetic import audited_model, most_canaries

        features = preflight.read_features(config)
        if features is None:
            raise BadInputError("a training audit needs a public schema", fix="audit the mechanism alone: --mechanism")
        if features.unknown:
            raise BadInputError(
                f"a training audit needs the public range or domain of {', '.join(features.unknown)}",
                fix="audit the mechanism alone: --mechanism",
            )
        results.append(
            audit_training(
                audited_model(config, features),
                plan=plan,
                canaries=most_canaries(canaries or TRAINING_CANARIES, plan.units),
                confidence=confidence,
            )
        )
    return results


def append(folder: RunFolder, results: list[AuditResult]) -> None:
    """Add audits to those of a run."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    entries = [*later_audits_of(folder), *({"made": now, **result.to_json()} for result in results)]
    write_atomically(path=folder.path / AUDITS, text=json.dumps(entries, indent=2))
