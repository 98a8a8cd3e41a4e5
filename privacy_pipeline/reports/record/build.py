"""Build the PrivacyRecord of a run from its plan and from what was executed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from typing import Literal

from federated.silos.statement import silo_accesses, silo_assumption
from privacy_pipeline.accounting import accountants, events
from privacy_pipeline.accounting.plan import MechanismPlan, Relation, Sampler
from privacy_pipeline.accounting.record import (
    Assumption,
    Composition,
    DataAccess,
    Guarantee,
    Mechanism,
    Preprocessing,
    PrivacyRecord,
    Randomness,
    Rows,
    Versions,
)
from privacy_pipeline.backends.base import Executed
from privacy_pipeline.config.models import KeyedUnit, PipelineConfig
from privacy_pipeline.encrypted.evaluation.evaluation import protection_of
from privacy_pipeline.releases.statistics import DpStatistics
from privacy_pipeline.reports.record.properties import shown
from privacy_pipeline.reports.record.tuning_record import tuning_accesses, tuning_assumptions, tuning_part

STATISTICS_ACCESS = "DP statistics"
CODE_ACCESS = "model code"
BUILT_APART = "built without access to data"
NOT_CHECKED = "model code: not checked"
EVALUATION_ACCESS = "evaluation metrics, blessing and slices"
_PACKAGES = ("privacy-pipeline", "dp-accounting", "tensorflow", "tensorflow-privacy", "tfx", "apache-beam")


TIMES = DataAccess(
    what="times",
    covered=False,
    detail="how long nodes and steps take depends on the data and is not hidden; times stay in the run's folder, ML "
    "Metadata, logs and the ledger, and are left out of what `budget publish` and `budget report` write",
)
_ENCRYPTED_EVALUATION = (
    DataAccess(
        what="evaluation of private predictions",
        covered=False,
        detail="accuracy and agreement are exact, on the eval split; anyone who can read the workspace sees them",
    ),
)


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Where a record comes from: run, pipeline, and hashes of code, lock and data.

    `begun` is before the training reads a row, so that the record does not reveal how long that took.
    `schema_is_public` is True if no domain or range was read off the data (or all were reviewed since).
    `statistics` was released from the train split before, in place of ranges and domains that are not public.
    """

    run_id: str
    pipeline: str
    code: str
    lock: str
    data: str
    schema_is_public: bool
    statistics: DpStatistics | None = None
    begun: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))


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
            *_data_accesses(config, facts, executed, private),
            *tuning_accesses(tuning, guarantee, shared_users=_shared_users(config)),
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


def _data_accesses(config: PipelineConfig, facts: RunFacts, executed: Executed, private: bool) -> list[DataAccess]:
    withheld = [
        DataAccess(
            what="exact readings of the training",
            covered=False,
            detail=f"withheld from everyone: {', '.join(executed.withheld)}; how long a step takes is not hidden",
        )
    ]
    return [
        DataAccess(
            what="training",
            covered=private,
            detail="the final model and everything computed from it"
            if private
            else "no noise was added, or a fixed seed voids it: the model may reveal single rows",
        ),
        *_code_accesses(config),
        *_schema_accesses(config, facts),
        DataAccess(
            what="statistics and anomalies",
            covered=False,
            detail="exact, on both splits; anyone who can read the workspace sees them",
        ),
        DataAccess(
            what=EVALUATION_ACCESS,
            covered=False,
            detail="exact, on the eval split; anyone who can read the workspace sees them" + _shared_users(config),
        ),
        *_federation(config),
        *executed.accesses,
        *([TIMES] if private else []),
        *(withheld if executed.withheld else []),
        *(_ENCRYPTED_EVALUATION if config.training.encrypted else []),
    ]


def _code_accesses(config: PipelineConfig) -> list[DataAccess]:
    """Return how a user's code was run, which may write what it sees into a model."""
    section = config.model
    if section.runs_beside_data:
        return [
            DataAccess(
                what=CODE_ACCESS,
                covered=False,
                detail=f"{NOT_CHECKED}: `{section.use}` ran beside the data, as `trust: reviewed` allows; what it read "
                "may be in the model",
            )
        ]
    if not section.is_built_apart:
        return []
    files = f"; public files by the config's word: {', '.join(map(str, section.files))}" if section.files else ""
    return [
        DataAccess(
            what=CODE_ACCESS,
            covered=True,
            detail=f"{BUILT_APART}: `{section.use}` ran in a process without data and network; built-in layers, graphs "
            f"and initial weights crossed. What its source itself states is its author's{files}",
        )
    ]


def _schema_accesses(config: PipelineConfig, facts: RunFacts) -> list[DataAccess]:
    """Return where ranges, domains and preprocessing come from."""
    schema, public, released = config.dataset.schema_path, facts.schema_is_public, facts.statistics
    fixed = not config.model.runs_beside_data and public
    source = "the schema's public ranges and domains" + (", and what was released with noise" if released else "")
    left_out = f", but for what it leaves out (see {STATISTICS_ACCESS})" if released else ""
    stated = f"public, from {schema}: reads no private data{left_out}"
    found = [
        DataAccess(
            what="schema and vocabularies",
            covered=public,
            detail=stated if public else "read off the private data",
        ),
        DataAccess(
            what="preprocessing",
            covered=fixed,
            detail=f"fixed by {source}; no analyzer reads the data{_traced(config)}"
            if fixed
            else "not checked: your preprocessing_fn, or a schema that is not public, may use the data",
        ),
    ]
    if released is not None:
        found.append(DataAccess(what=STATISTICS_ACCESS, covered=True, detail=_released(released)))
    return found


def _traced(config: PipelineConfig) -> str:
    return f"; what is `{config.model.use}`'s own is a graph {BUILT_APART}" if config.model.is_built_apart else ""


def _released(statistics: DpStatistics) -> str:
    event = json.dumps(statistics.event, sort_keys=True)
    return (
        f"noisy ranges and vocabularies of {', '.join([*statistics.ranges, *statistics.vocabularies])} over the train "
        f"split, epsilon {shown(statistics.epsilon)} at delta {statistics.delta:.0e} (RDP), unit {statistics.unit}, "
        f"{statistics.relation}, at most {statistics.contribution_bound} row(s) a unit; charged to budget "
        f"{statistics.budget}, ledger entry {statistics.ledger_entry}, event SHA-256 "
        f"{hashlib.sha256(event.encode()).hexdigest()[:16]}; the guarantee of this record counts it"
    )


def _federation(config: PipelineConfig) -> list[DataAccess]:
    """Return what a simulated federation does not protect, and who its clients are."""
    section = config.training.federated
    if section is None:
        return []
    if section.silo_privacy is not None:
        return silo_accesses(section.silo_privacy.column)
    who = "real: the key names them; several keys of one person would be several clients"
    if section.clients is not None:
        rule = ", ".join(f"{name} {value}" for name, value in section.clients.model_dump(exclude_none=True).items())
        who = f"synthetic, no real persons or sites; rows were dealt out by: {rule}"
    return [
        DataAccess(what="clients", covered=False, detail=f"{who}; their number is public"),
        DataAccess(
            what="updates of single clients",
            covered=False,
            detail="the federation is simulated in one process, which sees each update before it is clipped",
        ),
    ]


def _shared_users(config: PipelineConfig) -> str:
    """Return what is known of users with rows in both splits: a hash split keeps all rows of a user together."""
    unit = config.dataset.privacy_unit
    if not isinstance(unit, KeyedUnit):
        return ""
    if config.dataset.hash_split is not None:
        return f"; split by the hash of `{unit.key}`, so that no value of it is on both sides"
    return f"; not checked: who shares a `{unit.key}` with a trained row may be in it, and is not protected there"


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
