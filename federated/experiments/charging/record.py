"""The privacy record of a run of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

from federated.driver.accounted import Accounted, RoundsPlan
from privacy_pipeline.accounting.plan import ChargedPlan
from privacy_pipeline.accounting.record import (
    Assumption,
    Composition,
    DataAccess,
    Mechanism,
    PrivacyRecord,
    Randomness,
    Versions,
)
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.spans import Span

if TYPE_CHECKING:
    from federated.experiments.config import ExperimentConfig
    from federated.experiments.inputs import Inputs

BACKEND = "federated"
Audits = tuple[dict[str, str | int | float], ...]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """The part of a record that depends on whose privacy is kept and how."""

    unit_in_words: str
    mechanism: Mechanism
    assumptions: list[Assumption]
    data_accesses: list[DataAccess]


class Charge(ChargedPlan, Protocol):
    """A plan that the ledger charges, and what the record states of it."""

    @property
    def plan(self) -> RoundsPlan:
        """The mechanism."""

    def statement(self, config: ExperimentConfig, counted: Mapping[str, Any]) -> Statement:
        """Return what the record states of a run that made all rounds, and of what it counted on the way."""


def record_of(
    *,
    config: ExperimentConfig,
    charge: Charge,
    run_id: str,
    span: Span,
    begun: str,
    accounted: Accounted,
    counted: Mapping[str, Any],
    composition: Composition,
    inputs: Inputs,
    audits: Audits = (),
) -> PrivacyRecord:
    """Return the record of what a finished run guarantees.

    Args:
        config: the settings.
        charge: what was reserved, and ran.
        run_id, span: of the run.
        begun: time before it read a row, UTC, ISO 8601.
        accounted: the mechanism that ran, and its plan.
        counted: what the run counted over its rounds, and its guarantee covers.
        composition: the run among all that the ledger holds.
        inputs: digests of what the run came from.
        audits: what was found before the run began.

    Raises:
        PipelineError: another number of rounds was made than planned, a round was given out twice, or the mechanism
            has another plan than the one that is charged.
    """
    accounted.require_whole()
    if accounted.plan is not charge.plan:
        raise PipelineError("the run used a different plan from the one that was charged, so it has no guarantee")
    dataset, stated = config.data.dataset, charge.statement(config, counted)
    return PrivacyRecord(
        run_id=run_id,
        pipeline=config.experiment,
        created=begun,
        backend=BACKEND,
        dataset=dataset.name,
        span=span,
        training_guarantee="dp",
        unit=charge.unit,
        unit_in_words=stated.unit_in_words,
        contribution_bound=charge.contribution_bound,
        relation=charge.relation.value,
        mechanism=stated.mechanism,
        guarantee=accounted.plan.guarantee(),
        assumptions=stated.assumptions,
        data_accesses=stated.data_accesses,
        composition=composition,
        randomness=Randomness(generator=accounted.generator, cryptographic=True, seed_fixed=False),
        audits=[dict(audit) for audit in audits],
        versions=Versions(code=inputs.code, lock=inputs.packages, data=inputs.data, packages=_packages()),
    )


def guaranteed(record: PrivacyRecord, charge: Charge, audits: Audits) -> dict[str, Any]:
    """Return what the summary of a run states of its record.

    Args:
        record: the record.
        charge: what ran.
        audits: what was found before the run began; how long they took stays out.
    """
    guarantee, composition = record.guarantee, record.composition
    return {
        "epsilon": None if guarantee is None else guarantee.epsilon,
        "delta": None if guarantee is None else guarantee.delta,
        "accountant": None if guarantee is None else guarantee.accountant,
        "unit": charge.unit,
        "relation": charge.relation.value,
        "ledger_entry": None if composition is None else composition.ledger_entry,
        "audits": [{name: value for name, value in audit.items() if name != "seconds"} for audit in audits],
    }


def _packages() -> dict[str, str]:
    found = {}
    for name in ("privacy-pipeline", "dp-accounting", "tensorflow", "tensorflow-federated"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
