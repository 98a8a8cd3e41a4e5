"""Build the PrivacyRecord of a run from its plan and from what was executed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib import metadata
from typing import Literal

from federated.silos.statement import silo_assumption
from privacy_pipeline.accounting import accountants, events
from privacy_pipeline.accounting.plan import MechanismPlan, Relation, Sampler
from privacy_pipeline.accounting.record import (
    Assumption,
    Composition,
    Guarantee,
    Mechanism,
    Preprocessing,
    PrivacyRecord,
    Randomness,
    Rows,
    Versions,
)
from privacy_pipeline.backends.base import Executed
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.encrypted.evaluation.evaluation import protection_of
from privacy_pipeline.releases.statistics import DpStatistics
from privacy_pipeline.reports.record.data_accesses import data_accesses, shared_users
from privacy_pipeline.reports.record.run_facts import RunFacts
from privacy_pipeline.reports.record.tuning_record import tuning_accesses, tuning_assumptions, tuning_part

_PACKAGES = ("privacy-pipeline", "dp-accounting", "tensorflow", "tensorflow-privacy", "tfx", "apache-beam")


def build_record(
    *,
    config: PipelineConfig,
    facts: RunFacts,
    executed: Executed,
    plan: MechanismPlan | None,
    composition: Composition | None,
    further: Sequence[Composition] = (),
) -> PrivacyRecord:
    """Return the record that states what the run guarantees.

    Args:
        config: the config that was run.
        facts: identity of the run.
        executed: what the backend counted while it ran.
        plan: the mechanism that was reserved; None for a run that claims nothing.
        composition: the run among all runs in the ledger.
        further: the same for each further budget that a run over several spans was charged to.

    Raises:
        AccountingError: the accountants contradict each other.
        BadInputError: the config does not state through whom private predictions are evaluated, or the parties of its
            folder cannot be read.
    """
    private = plan is not None and not executed.seed_fixed
    guarantee = _guarantee(plan, executed, facts.statistics) if plan and private else None
    tuning = tuning_part(config.training.tuning, executed, plan, private=private)
    return PrivacyRecord(
        run_id=facts.run_id,
        pipeline=facts.pipeline,
        created=facts.begun,
        backend=config.training.backend,
        dataset=config.dataset.name,
        span=config.dataset.named_span,
        training_guarantee="dp" if private else "none",
        inference_protection=_inference_protection(config),
        inference_error=executed.inference_error,
        unit=_unit(config),
        unit_in_words=_unit_in_words(config),
        contribution_bound=plan.contribution_bound if plan else None,
        relation=plan.relation.value if plan and private else None,
        mechanism=_mechanism(plan, executed) if plan else None,
        rows=Rows.model_validate(executed.rows.to_json()) if executed.rows else None,
        preprocessing=_preprocessing(facts.statistics) if facts.statistics else None,
        tuning=tuning,
        guarantee=guarantee,
        assumptions=_assumptions(plan, executed) if plan else [],
        data_accesses=[
            *data_accesses(config, facts, executed, private),
            *tuning_accesses(tuning, guarantee, shared_users=shared_users(config)),
        ],
        composition=composition,
        further_compositions=list(further),
        randomness=Randomness(
            generator=executed.generator, cryptographic=executed.cryptographic, seed_fixed=executed.seed_fixed
        ),
        audits=[dict(audit) for audit in executed.audits],
        versions=Versions(code=facts.code, lock=facts.lock, data=facts.data, packages=_versions()),
    )


def _inference_protection(config: PipelineConfig) -> Literal["none", "encrypted", "simulated"]:
    section = config.training.encrypted
    return "none" if section is None else protection_of(section)


def _unit(config: PipelineConfig) -> str:
    unit = config.dataset.privacy_unit
    return unit.key if isinstance(unit, KeyedUnit) else "row"


def _unit_in_words(config: PipelineConfig) -> str:
    unit, silo = config.dataset.privacy_unit, config.training.silo_column
    home = "" if silo is None else f", in the silo (`{silo}`) that holds them"
    if isinstance(unit, KeyedUnit):
        client = "" if config.training.federated is None or home else ": one client of the federation"
        return f"all rows of {config.dataset.name} that share one value of `{unit.key}`{client}{home}"
    return f"one row of {config.dataset.name}; a person with several rows is protected row by row only{home}"


def _mechanism(plan: MechanismPlan, executed: Executed) -> Mechanism:
    """Return what ran; for a tuning, the chosen trial with the event of the whole tuning."""
    if executed.tuning is not None and executed.tuning.plan is not None:
        chosen = executed.tuning.plan
        return _mechanism(chosen, dataclasses.replace(executed, event=executed.event or plan.event, tuning=None))
    return Mechanism(
        name=plan.mechanism,
        sampler=plan.sampler.value,
        clipping_norm=plan.clipping_norm,
        noise_multiplier=plan.noise_multiplier,
        batch_size=plan.batch_size,
        epochs=executed.epochs,
        steps=executed.steps,
        units=plan.units,
        dp_event=events.to_json(executed.event or plan.event),
        engine=plan.engine,
        plan=dict(plan.engine_parameters),
    )


def _preprocessing(statistics: DpStatistics) -> Preprocessing:
    charged = statistics.composition
    return Preprocessing(
        what="DP statistics",
        epsilon=statistics.epsilon,
        delta=statistics.delta,
        dp_event=statistics.event,
        budget=statistics.budget,
        ledger_entry=statistics.ledger_entry,
        journal_seq=charged.journal_seq if charged else None,
        journal_hash=charged.journal_hash if charged else None,
        key_id=charged.key_id if charged else None,
    )


def _guarantee(plan: MechanismPlan, executed: Executed, statistics: DpStatistics | None) -> Guarantee:
    """Return the guarantee of the executed event; for shuffled batches, add the epsilon that samples would have given.

    A model that was set up with DP statistics reveals them too: its guarantee covers both events together.
    """
    if statistics is not None:
        from dp_accounting import ComposedDpEvent

        both = ComposedDpEvent([events.from_json(statistics.event), executed.event or plan.event])
        return accountants.guarantee(both, delta=plan.delta, relation=plan.relation)
    poisson = None
    # Noise that clients share has no bound under Poisson samples, and a tuning is more than its trial.
    other = plan.tuning is not None or "distributed" in plan.engine_parameters
    if plan.sampler is Sampler.SHUFFLED and plan.units is not None and not other:
        poisson = events.poisson_gaussian(
            sampling_probability=min(1.0, plan.batch_size / plan.units),
            noise_multiplier=plan.noise_multiplier,
            steps=plan.steps,
        )
    event = executed.event or plan.event
    return accountants.guarantee(event, delta=plan.delta, relation=plan.relation, poisson_event=poisson)


def _assumptions(plan: MechanismPlan, executed: Executed) -> list[Assumption]:
    tuned = tuning_assumptions(plan, executed) if plan.tuning is not None else []
    if executed.tuning is not None and not executed.tuning.trained:
        return tuned
    found = [
        *tuned,
        Assumption(
            name="the executed steps are the planned ones",
            held=executed.steps == plan.steps and executed.epochs == plan.epochs,
            detail=f"{executed.steps} steps in {executed.epochs} epochs; planned {plan.steps} in {plan.epochs}",
        ),
        _sampling_assumption(plan, executed),
    ]
    silos = plan.engine_parameters.get("silos")
    if silos:
        found.append(silo_assumption(silos))
    if plan.relation is Relation.ZERO_OUT:
        units = executed.examples if executed.units is None else executed.units
        found.append(
            Assumption(
                name="the number of units is public",
                held=units == plan.units,
                detail=f"{units} units trained on; {plan.units} units registered",
            )
        )
    return [*found, *executed.assumptions]


def _sampling_assumption(plan: MechanismPlan, executed: Executed) -> Assumption:
    if plan.sampler in (Sampler.SHUFFLED, Sampler.CYCLIC):
        most = executed.largest_participation
        return Assumption(
            name="each unit is in at most one batch of an epoch",
            held=most is not None and most <= 1 and executed.sampler == plan.sampler.value,
            detail=f"counted: at most {most}; no amplification by sampling is claimed",
        )
    return Assumption(
        name="batches are Poisson samples",
        held=executed.sampler == plan.sampler.value,
        detail="the engine's own sampler drew them: each unit with the planned probability, independently in each step",
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
