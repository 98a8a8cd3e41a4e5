"""A run with a guarantee: planned, charged, made by the driver under a secret key, and recorded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Protocol

from federated.driver.protected import MakeAggregator, Secret, of_clients, of_silos
from federated.experiments.charging import privacy, silos
from federated.experiments.charging.record import Charge, record_of
from federated.experiments.run_folder import RECORD
from privacy_pipeline.data.source import folders_of
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.files.atomic import write_atomically
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.charging.sequence import charged
from privacy_pipeline.ledger.state.registration import division_of
from privacy_pipeline.ledger.storage.schema import name_of

if TYPE_CHECKING:
    from federated.clients.store import ClientStore
    from federated.contract import Engine
    from federated.driver.rounds import Rounds
    from federated.experiments.config import ExperimentConfig, Point
    from federated.experiments.data import Splits
    from federated.experiments.inputs import Inputs
    from federated.experiments.lines import Lines
    from federated.experiments.run_folder import RunFolder
    from federated.experiments.simulation import Simulation
    from federated.silos.engine import SiloEngine
    from federated.silos.plan import SiloPlan
    from privacy_pipeline.accounting.record import Composition
    from privacy_pipeline.data.schema.features import FeaturePlan
    from privacy_pipeline.data.source import ResolvedSource
    from privacy_pipeline.dp.graphs.randomness import RunKey
    from privacy_pipeline.ledger.ledger import Ledger
    from privacy_pipeline.ledger.state.registration import Registration

NODE = "FederatedTraining"  # the ledger's name of what spends
Audits = tuple[dict[str, str | int | float], ...]


class Run(Protocol):
    """What a charged run needs of `federated.experiments.run`: settings, data, engine, and its rounds."""

    @property
    def point(self) -> Point:
        """Settings and seed."""

    @property
    def config(self) -> ExperimentConfig:
        """The settings."""

    @property
    def folder(self) -> RunFolder:
        """Where the run is written down."""

    @property
    def inputs(self) -> Inputs:
        """Digests of what the run comes from."""

    @property
    def plan(self) -> FeaturePlan:
        """Public facts of the columns."""

    @property
    def source(self) -> ResolvedSource:
        """The private copy of the data's files."""

    def ledger(self) -> Ledger | None:
        """Return the ledger that the data belongs to."""

    def look_through(self, known: Registration) -> None:
        """Read all rows before anything is started."""

    def data(self) -> Splits:
        """Return both splits."""

    def simulation(self, train: ClientStore, aggregator: MakeAggregator | None) -> Simulation:
        """Return what trains."""

    def require_writable(self, first: Any) -> None:
        """Refuse a folder that has no room for what the run writes."""

    def lines(self, simulation: Simulation, data: Splits, charge: Charge | None) -> Lines:
        """Return what writes down the rounds."""

    def trained(self, rounds: Rounds, lines: Lines, simulation: Simulation, data: Splits) -> dict[str, Any]:
        """Make the rounds, and return the summary."""


def run_charged(run: Run) -> dict[str, Any]:
    """Make a run with a guarantee under a charge of its own, and return its summary.

    Raises:
        BadInputError: the data, or the settings for this data, are not usable; nothing was charged.
        BudgetRefusedError: the ledger refuses; no row was read.
    """
    ledger, config, span = run.ledger(), run.config, run.source.span
    if ledger is None:
        raise BadInputError(f"there is no ledger at {name_of(config.ledger)}", fix=privacy.REGISTER_FIX)
    known = privacy.registered(config, ledger, span=span)
    plan_of = silos.charged if config.silo_privacy is not None else privacy.charged
    charge: Charge = plan_of(config, units=known.splits["train"].units)
    begun = datetime.now(timezone.utc).isoformat(timespec="seconds")
    if isinstance(charge, privacy.ChargedExperiment):
        privacy.require_room(config, charge, run.plan)
    if ledger.forecast(charge, dataset=known.dataset, span=known.span, split="train").fits:
        run.look_through(known)  # what is refused below reads nothing
    return _Charged(run=run, ledger=ledger, charge=charge, begun=begun).spend()


@dataclass(frozen=True, kw_only=True)
class _Charged:
    """A run that is to be charged."""

    run: Run
    ledger: Ledger
    charge: Charge
    begun: str

    @property
    def run_id(self) -> str:
        return f"{self.run.config.experiment}-{self.run.point.name}"

    def spend(self) -> dict[str, Any]:
        """Make the run under one charge."""
        run, dataset = self.run, self.run.config.data.dataset
        with charged(
            self.ledger.spend(
                dataset=dataset.name,
                span=run.source.span,
                data_digest=run.inputs.data,
                split="train",
                run_id=self.run_id,
                node=NODE,
                plan=self.charge,
                division=division_of(dataset),
            ),
            composition=self.ledger.composition,
            note=self.note,
        ) as charging:
            audits = verified(run.config, self.charge)
            data = run.data()
            rounds, simulation, lines = self.prepared(data)
            run.require_writable(rounds.engine.initial_state())
            run.folder.forget()
            charging.start()
            summary = run.trained(rounds, lines, simulation, data)
            composition, *_ = charging.commit(rounds.spent().executed())
            self.note()
        return self.recorded(rounds, summary, composition, audits)

    def note(self) -> None:
        """Note beside the data how far the ledger is."""
        pins.note_again(self.ledger, data=folders_of(self.run.config.data.dataset), workspace=self.run.config.folder)

    def prepared(self, data: Splits) -> tuple[Rounds, Simulation, Lines]:
        """Return the rounds, with noise and samples of the charge under a new key, what trains, and what writes."""
        run, charge = self.run, self.charge
        made: list[Simulation] = []
        secret = Secret.take(seed=None, state_dir=None, binding=str)
        if isinstance(charge, silos.ChargedSilos) and data.silos is not None:
            records = data.silos

            def by_silos(plan: SiloPlan, key: RunKey) -> SiloEngine:
                from federated.experiments.engines import build_silos

                width = int(records.clients.features["features"].shape[1])
                simulation, engine = build_silos(run.config, records, plan, key, width=width, seed=run.point.seed)
                made.append(simulation)
                return engine

            rounds = of_silos(plan=charge.plan, secret=secret, engine=by_silos)
        elif isinstance(charge, privacy.ChargedExperiment):

            def by_clients(aggregator: MakeAggregator) -> Engine:
                made.append(run.simulation(data.train, aggregator))
                return made[-1].engine

            rounds = of_clients(plan=charge.plan, secret=secret, clients=data.train.num_clients, engine=by_clients)
        else:
            raise PipelineError(f"no engine is known for the charge {type(charge).__name__}")
        rounds.observer = lines = run.lines(made[0], data, charge)
        return rounds, made[0], lines

    def recorded(
        self, rounds: Rounds, summary: dict[str, Any], composition: Composition, audits: Audits
    ) -> dict[str, Any]:
        """Write the record, and return the summary with what the run guarantees."""
        run, charge = self.run, self.charge
        record = record_of(
            config=run.config,
            charge=charge,
            run_id=self.run_id,
            span=run.source.span,
            begun=self.begun,
            accounted=rounds.spent(),
            counted=summary,
            composition=composition,
            inputs=run.inputs,
            audits=audits,
        )
        write_atomically(path=run.folder.path / RECORD, text=record.model_dump_json(indent=1) + "\n")
        guarantee = record.guarantee
        found = None if guarantee is None else (guarantee.epsilon, guarantee.delta, guarantee.accountant)
        epsilon, delta, accountant = found or (None, None, None)
        return {
            **summary,
            "epsilon": epsilon,
            "delta": delta,
            "accountant": accountant,
            "unit": charge.unit,
            "relation": charge.relation.value,
            "ledger_entry": composition.ledger_entry,
            "audits": [{name: value for name, value in audit.items() if name != "seconds"} for audit in audits],
        }


def verified(config: ExperimentConfig, charge: Charge) -> Audits:
    """Measure the noise of a run's mechanism, and audit it where the settings ask for that. No data is read.

    Raises:
        PipelineError: the noise is not the one that is accounted, or the audit contradicts the plan.
    """
    from federated.privacy.audit import audit_aggregation
    from federated.privacy.noise_check import require_noise

    if not isinstance(charge, privacy.ChargedExperiment | silos.ChargedSilos):
        raise PipelineError(f"no check is known for the charge {type(charge).__name__}")
    require_noise(charge.plan)
    section = config.privacy or config.silo_privacy
    if section is None or section.audit == "none":
        return ()
    result = audit_aggregation(charge.plan)
    result.require_sound()
    return (result.to_json(),)
