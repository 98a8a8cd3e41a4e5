"""The privacy record of a run of an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

from privacy_pipeline.accounting.plan import ChargedPlan, Relation
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
    from dp_accounting import DpEvent

    from federated.experiments.config import ExperimentConfig
    from federated.experiments.inputs import Inputs
    from privacy_pipeline.accounting.record import Guarantee

BACKEND = "federated"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """The part of a record that depends on whose privacy is kept and how."""

    unit_in_words: str
    mechanism: Mechanism
    assumptions: list[Assumption]
    data_accesses: list[DataAccess]


class RoundsPlan(Protocol):
    """The mechanism of a run, round by round."""

    @property
    def rounds(self) -> int:
        """Rounds."""

    @property
    def delta(self) -> float:
        """Delta of the guarantee."""

    @property
    def relation(self) -> Relation:
        """Neighbouring relation."""

    @property
    def event(self) -> DpEvent:
        """The DpEvent of all rounds."""

    def event_of(self, rounds: int) -> DpEvent:
        """Return the DpEvent of the first rounds."""

    def guarantee(self) -> Guarantee:
        """Return epsilon by both accountants."""


class Charge(ChargedPlan, Protocol):
    """A plan that the ledger charges, and what the record states of it."""

    @property
    def plan(self) -> RoundsPlan:
        """The mechanism."""

    def statement(self, config: ExperimentConfig, counted: Mapping[str, Any]) -> Statement:
        """Return what the record states of a run that made all rounds, and of what it counted on the way."""


def executed(plan: RoundsPlan, summed: Sequence[int]) -> DpEvent:
    """Return the event of what the mechanism gave out, whatever was planned.

    Args:
        plan: the plan.
        summed: the round of each noisy sum, in their order.

    Returns:
        The event of the rounds from the first on; one without a bound where a round was left out or given out twice:
        its noise follows from key and round, and two sums under one noise reveal their difference.
    """
    from dp_accounting import NonPrivateDpEvent

    return plan.event_of(len(summed)) if _in_order(summed) else NonPrivateDpEvent()


def _in_order(summed: Sequence[int]) -> bool:
    return list(summed) == list(range(len(summed)))


def record_of(
    *,
    config: ExperimentConfig,
    charge: Charge,
    run_id: str,
    span: Span,
    begun: str,
    summed: Sequence[int],
    counted: Mapping[str, Any],
    generator: str,
    composition: Composition,
    inputs: Inputs,
    audits: Sequence[Mapping[str, str | int | float]] = (),
) -> PrivacyRecord:
    """Return the record of what a finished run guarantees.

    Args:
        config: the settings.
        charge: what was reserved, and ran.
        run_id, span: of the run.
        begun: time before it read a row, UTC, ISO 8601.
        summed: the round of each sum that was made, in their order.
        counted: what the run counted over its rounds, and its guarantee covers.
        generator: where sampling and noise came from.
        composition: the run among all that the ledger holds.
        inputs: digests of what the run came from.
        audits: what was found before the run began.

    Raises:
        PipelineError: another number of rounds was made than planned, or a round was given out twice.
    """
    plan, rounds = charge.plan, len(summed)
    if not _in_order(summed):
        raise PipelineError("a round was left out or given out twice: there is no guarantee to state")
    if rounds != plan.rounds:
        raise PipelineError(f"{rounds} rounds were made, {plan.rounds} were planned: there is no guarantee to state")
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
        guarantee=plan.guarantee(),
        assumptions=stated.assumptions,
        data_accesses=stated.data_accesses,
        composition=composition,
        randomness=Randomness(generator=generator, cryptographic=True, seed_fixed=False),
        audits=[dict(audit) for audit in audits],
        versions=Versions(code=inputs.code, lock=inputs.packages, data=inputs.data, packages=_packages()),
    )


def _packages() -> dict[str, str]:
    found = {}
    for name in ("privacy-pipeline", "dp-accounting", "tensorflow", "tensorflow-federated"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
