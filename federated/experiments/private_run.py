"""A run with a guarantee: planned, charged, made by the driver under a secret key, and recorded."""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Protocol

from federated.driver.binding import binding_of, model_digest
from federated.driver.protected import MakeAggregator, Secret, of_clients, of_silos
from federated.experiments.charging import privacy, silos
from federated.experiments.charging.record import Audits, Charge, guaranteed, record_of
from federated.experiments.charging.verified import verified
from federated.experiments.run_folder import RECORD
from privacy_pipeline.data.source import folders_of
from privacy_pipeline.dp import attempts
from privacy_pipeline.dp.training.run_state import StateMismatch, mismatch
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.files.atomic import write_atomically
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.charging.sequence import charged
from privacy_pipeline.ledger.state.registration import TRAIN, division_of
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
    from privacy_pipeline.dp.attempts import Attempt
    from privacy_pipeline.dp.graphs.randomness import RunKey
    from privacy_pipeline.ledger.charging.grants import ResumeToken
    from privacy_pipeline.ledger.ledger import Ledger
    from privacy_pipeline.ledger.state.registration import Registration

NODE = "FederatedTraining"  # the ledger's name of what spends


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
    """Make a run with a guarantee, or go on with it, and write its summary; return it.

    A run that was killed goes on under the charge that it has, if its key and all else are still the same: rounds are
    made again bit by bit, or not at all. Anything else destroys the key, and the run begins and pays again. Key,
    checkpoint and resume token lie in the run's folder until the summary is written; one process holds them at a time.

    Raises:
        BadInputError: the data, or the settings for this data, are not usable; nothing was charged.
        BudgetRefusedError: the ledger refuses; no row was read.
        PipelineError: another process executes the run.
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
    root, run_id = run.folder.path / attempts.ROOT, f"{config.experiment}-{run.point.name}"
    with attempts.held(root, run_id=run_id, node=NODE, plan=charge) as attempt:
        done = run.folder.summary()  # of a process that ended while this one began
        if done is None:
            made = _Charged(
                run=run, ledger=ledger, known=known, charge=charge, run_id=run_id, begun=begun, attempt=attempt
            )
            done = made.continue_or_begin()
            run.folder.finish(done)
    attempts.clear(root)
    return done


@dataclass(frozen=True, kw_only=True)
class _Charged:
    """A run that is to be charged, or was."""

    run: Run
    ledger: Ledger
    known: Registration
    charge: Charge
    run_id: str
    begun: str
    attempt: Attempt

    def continue_or_begin(self) -> dict[str, Any]:
        """Continue what a killed attempt left, if it fits; else begin, which is charged."""
        resume_token = self.attempt.resume_token()
        if resume_token is not None:
            self.run.look_through(self.known)
            try:
                paid = self.ledger.committed(**self.asked(), resume_token=resume_token)
                return self.spend(resume_token) if paid is None else self.written(paid)
            except StateMismatch as error:
                # The key is destroyed by now: what ran stays charged, and what runs next is charged too.
                logging.getLogger(__name__).warning("%s", error.message)
        elif self.ledger.forecast(self.charge, dataset=self.known.dataset, span=self.known.span, split=TRAIN).fits:
            self.run.look_through(self.known)  # what is refused below reads nothing
        return self.spend(None)

    def asked(self) -> dict[str, Any]:
        """Return what the run asks the ledger for."""
        return {
            "dataset": self.run.config.data.dataset.name,
            "span": self.run.source.span,
            "data_digest": self.run.inputs.data,
            "split": TRAIN,
            "run_id": self.run_id,
            "node": NODE,
            "plan": self.charge,
        }

    def spend(self, resume_token: ResumeToken | None) -> dict[str, Any]:
        """Make the run under one charge: a new one, or that of a killed attempt."""
        run, division = self.run, division_of(self.run.config.data.dataset)
        with charged(
            self.ledger.spend(**self.asked(), division=division, continues=resume_token),
            composition=self.ledger.composition,
            note=self.note,
        ) as charging:
            fresh = not charging.grant.continued
            audits = verified(run.config, self.charge)
            data = run.data()
            with contextlib.ExitStack() as unused:
                if fresh:
                    self.attempt.begin(charging.grant)
                    unused.callback(self.give_up)
                rounds, simulation, lines = self.prepared(data)
                run.require_writable(rounds.engine.initial_state())
                if fresh:
                    run.folder.forget()
                rounds.begin()  # with a checkpoint before the charge is started, no kill after that costs another one
                attempts.require_continued(charging.grant, rounds.resumed_at)
                unused.pop_all()
            if fresh:
                charging.start()
            summary = run.trained(rounds, lines, simulation, data)
            composition, *_ = charging.commit(rounds.spent().executed())
            self.note()
        return self.recorded(rounds, summary, composition, audits)

    def written(self, entry: int) -> dict[str, Any]:
        """Write what a run was killed before writing: its charge is committed, and its last state is kept.

        Raises:
            StateMismatch: the last state is not here, as in a copy of the folder; its key is destroyed.
        """
        audits = verified(self.run.config, self.charge)
        data = self.run.data()
        rounds, simulation, lines = self.prepared(data)
        rounds.begin()
        if rounds.done != rounds.rounds:
            self.attempt.destroy()
            raise mismatch("its charge is committed, and its last round is not here")
        self.note()
        summary = self.run.trained(rounds, lines, simulation, data)
        return self.recorded(rounds, summary, self.ledger.composition(entry), audits)

    def give_up(self) -> None:
        """Destroy a key that drew nothing, and whose charge is given back."""
        self.attempt.destroy()

    def note(self) -> None:
        """Note beside the data how far the ledger is."""
        pins.note_again(self.ledger, data=folders_of(self.run.config.data.dataset), workspace=self.run.config.folder)

    def prepared(self, data: Splits) -> tuple[Rounds, Simulation, Lines]:
        """Return the rounds, with noise and samples of the charge under the attempt's key; what trains, what writes."""
        run, charge = self.run, self.charge
        made: list[Simulation] = []
        if not isinstance(charge, privacy.ChargedExperiment | silos.ChargedSilos):
            raise PipelineError(f"no engine is known for the charge {type(charge).__name__}")
        owners = None if data.silos is None else data.silos.owners
        secret = Secret.take(
            seed=None,
            state_dir=self.attempt.state_dir,
            binding=lambda: binding_of(
                plan=charge.plan,
                algorithm=run.config.algorithm,
                clients=data.train,
                # Settings and code decide the run. A key belongs to one charge: no other one paid for it.
                more=json.dumps([self.run_id, charge.digest(), asdict(run.inputs), self.attempt.charge]),
                owners=owners,
            ),
        )
        if isinstance(charge, silos.ChargedSilos):
            if data.silos is None:
                raise PipelineError("the records of the silos were not read")
            records = data.silos

            def by_silos(plan: SiloPlan, key: RunKey) -> SiloEngine:
                from federated.experiments.engines import build_silos

                width = int(records.clients.features["features"].shape[1])
                simulation, engine = build_silos(run.config, records, plan, key, width=width, seed=run.point.seed)
                made.append(simulation)
                return engine

            rounds = of_silos(plan=charge.plan, secret=secret, engine=by_silos)
        else:

            def by_clients(aggregator: MakeAggregator) -> Engine:
                made.append(run.simulation(data.train, aggregator))
                return made[-1].engine

            rounds = of_clients(plan=charge.plan, secret=secret, clients=data.train.num_clients, engine=by_clients)
        rounds.observer = lines = run.lines(made[0], data, charge)
        if made[0].model is not None:  # a caller's own `build` may make any
            rounds.model = model_digest(made[0].model)
        return rounds, made[0], lines

    def recorded(
        self, rounds: Rounds, summary: dict[str, Any], composition: Composition, audits: Audits
    ) -> dict[str, Any]:
        """Write the record, and return the summary with what the run guarantees.

        Raises:
            PipelineError: something else was made than planned. The key is destroyed: it cannot be made good.
        """
        run, charge = self.run, self.charge
        if not rounds.spent().whole:
            self.attempt.destroy()
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
        return {**summary, **guaranteed(record, charge, audits)}
