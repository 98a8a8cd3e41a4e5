"""Runs one point of an experiment: rounds, evaluation, charge, checkpoints."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from federated.clients.store import ClientStore
from federated.contract import RoundState
from federated.driver.protected import MakeAggregator
from federated.driver.rounds import Rounds
from federated.driver.uniform import UniformSampler
from federated.experiments.binding import bound, inputs_in, reading, require_unchanged
from federated.experiments.config import ExperimentConfig, Point
from federated.experiments.data import Splits, feature_plan, load_clients, load_silos, look_through, source_of
from federated.experiments.inputs import Inputs
from federated.experiments.lines import Lines, Report, bytes_of, counted
from federated.experiments.private_run import run_charged
from federated.experiments.run_folder import RunFolder
from federated.experiments.simulation import Build, Simulation
from federated.silos.records import SiloRecords
from federated.tables import name_of as name_of_files
from privacy_pipeline.data import private_copy
from privacy_pipeline.data.counting.row_digests import RowHasher
from privacy_pipeline.data.private_copy import PrivateCopy
from privacy_pipeline.data.source import folders_of, row_digests
from privacy_pipeline.dp import attempts
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.read_once import reading_once
from privacy_pipeline.ledger import pins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from federated.experiments.charging.record import Charge
    from privacy_pipeline.ledger.charging.unprotected import Use
    from privacy_pipeline.ledger.ledger import Ledger
    from privacy_pipeline.ledger.state.registration import Registration

_LINE_BYTES = 4096  # of a round, in `rounds.jsonl` and TensorBoard; far above what one has
_FILES_BYTES = 4 << 20  # summary, record and a comparison


@reading_once()
def run_point(point: Point, *, build: Build, report: Report = lambda *_: None) -> dict[str, Any]:
    """Run a point, or go on with it, and return its summary; a finished run of the same content is not run again.

    A killed run goes on from its last checkpoint, to the same weights; with a guarantee, under the charge that it has
    (`federated.experiments.private_run`).

    Args:
        point: settings and seed; bound to its content here where it is not yet (`federated.experiments.binding`).
        build: makes the engine.
        report: gets the progress.

    Raises:
        BadInputError: the data, or the settings for this data, are not usable; nothing was charged.
        BudgetRefusedError: the ledger refuses; no row was read.
        PipelineError: another process executes the run, or what ran is not what was planned.
    """
    (point,) = bound([point])
    folder = RunFolder(point.folder)
    done = folder.summary()
    if done is not None:
        folder.require(point)
        attempts.clear(folder.path / attempts.ROOT)  # where a kill came between the summary and the end of the key
        return done
    with private_copy.taken(source_of(point.config.data), below=reading(point.config)) as copy, copy.original_names():
        require_unchanged(point, copy.source)
        folder.begin(point)
        with folder.in_progress():
            run = _Run(point, inputs_in(point), folder, build, report, copy)
            if point.config.claims_guarantee:
                return run_charged(run)
            summary = run.without_guarantee()
            folder.finish(summary)
    return summary


class _Run:
    def __init__(
        self,
        point: Point,
        inputs: Inputs,
        folder: RunFolder,
        build: Build,
        report: Report,
        copy: PrivateCopy,
    ) -> None:
        self.point, self.config, self.folder, self.inputs = point, point.config, folder, inputs
        self.build, self.report = build, report
        self.copy, self.source = copy, copy.source
        self.folders = folders_of(self.config.data.dataset)
        self.plan = feature_plan(self.config.data)

    def clients(self, split: str) -> ClientStore:
        return load_clients(self.config.data, split=split, source=self.source, plan=self.plan, name=self.name_of(split))

    def name_of(self, split: str) -> str:
        """Return the files of a split in messages and records: by the names of those that were copied."""
        return self.copy.named(name_of_files(self.source.files[split]))

    def data(self) -> Splits:
        """Return both splits of the private copy. All of it is read before a charge, so that a bad cell costs nothing.

        Raises:
            BadInputError: a cell or a column is not usable.
        """
        silos_ = self.silo_records() if self.config.silo_privacy else None
        train = self.clients("train") if silos_ is None else silos_.clients
        found = Splits(train=train, evaluation=self.clients("eval"), silos=silos_)
        self.require_tunable(found.evaluation)
        return found

    def silo_records(self) -> SiloRecords:
        return load_silos(self.config.data, source=self.source, plan=self.plan, name=self.name_of("train"))

    def simulation(self, train: ClientStore, aggregator: MakeAggregator | None) -> Simulation:
        return self.build(self.config, train, aggregator, width=_width(train), seed=self.point.seed)

    def ledger(self) -> Ledger | None:
        """Return the ledger that the data belongs to, if the policy of its registration allows this run."""
        ledger = pins.open_pinned(self.config.ledger, data=self.folders, workspace=self.config.folder)
        if ledger is not None:
            ledger.require_allowed(self.use(ledger))
        return ledger

    def use(self, ledger: Ledger) -> Use:
        from privacy_pipeline.ledger.charging.unprotected import Use

        return Use(
            dataset=self.config.data.dataset.name,
            span=self.source.span,
            data_digest=self.inputs.data,
            backend="federated",
            guarantee=self.config.claims_guarantee,
        )

    def rows(self, secret: bytes) -> NDArray[np.uint64]:
        return row_digests(source=self.source, dataset=self.config.data.dataset, hasher=RowHasher(secret))

    def without_guarantee(self) -> dict[str, Any]:
        ledger = self.ledger()
        look_through(self.config.data, source=self.source)
        if ledger is not None:
            run_id = f"{self.config.experiment}-{self.point.name}"
            ledger.run_unprotected(self.use(ledger), run_id=run_id, rows=self.rows)
            pins.note_again(ledger, data=self.folders, workspace=self.config.folder)
        data = self.data()
        clients = data.train.num_clients
        sampler = UniformSampler(clients=clients, size=self.config.clients_per_round, seed=self.point.seed)
        simulation = self.simulation(data.train, None)
        self.require_writable(simulation.engine.initial_state())
        kept = self.folder.checkpoint
        if not kept.resumed:
            self.folder.forget()
        lines = self.lines(simulation, data, None)
        rounds = Rounds(rounds=self.config.rounds, sampler=sampler, engine=simulation.engine, kept=kept, observer=lines)
        return self.trained(rounds, lines, simulation, data)

    def look_through(self, known: Registration) -> None:
        """Read all rows of both splits before a charge, which have to be those that are registered."""
        look_through(self.config.data, source=self.source, known=known)

    def require_tunable(self, evaluation: ClientStore) -> None:
        """Refuse `personalize` where no client of the eval split could be tuned after all rounds.

        Raises:
            BadInputError: no client has two rows.
        """
        chosen = self.config.evaluation.personalize
        if chosen and evaluation.counts[:chosen].max() < 2:
            raise BadInputError(
                f"evaluation.personalize: none of the first {chosen} clients of the eval "
                "split has two rows, one to tune on and one to evaluate on",
                fix="raise it, or drop it",
            )

    def require_writable(self, first: RoundState) -> None:
        """Refuse a folder that has no room for what the run writes, before it costs anything."""
        self.folder.require_writable(_room(self.config, first))

    def lines(self, simulation: Simulation, data: Splits, charge: Charge | None) -> Lines:
        """Return what writes down the rounds."""
        return Lines(
            self.point,
            folder=self.folder,
            predict=simulation.predict,
            evaluation=data.evaluation,
            report=self.report,
            charge=charge,
        )

    def trained(self, rounds: Rounds, lines: Lines, simulation: Simulation, data: Splits) -> dict[str, Any]:
        """Make the rounds that are left, and return the summary. Ends what the engine started."""
        algorithm, train, began = self.config.algorithm, data.train, time.perf_counter()
        try:
            state = rounds.run()
            own = self.personalized(simulation, state, data.evaluation)
        finally:
            lines.close()
            simulation.close()
        last, found = self.folder.rounds()[-1], lines.found
        return {
            "experiment": self.config.experiment,
            "run": self.point.name,
            "settings": dict(self.point.settings),
            "seed": self.point.seed,
            "algorithm": algorithm.name,
            "engine": algorithm.engine,
            "rounds": state.round_number,
            "clients_train": train.num_clients,
            "clients_eval": data.evaluation.num_clients,
            "clients": train.origin.as_record(),
            "bytes_up": last["bytes_up"],
            "bytes_down": last["bytes_down"],
            # With a guarantee no time is kept: it would reveal how many rows a client has.
            **({"seconds": time.perf_counter() - began} if rounds.accounted is None else {}),
            **(asdict(found) if found is not None else {}),
            **own,
            **counted(state),
        }

    def personalized(self, simulation: Simulation, state: RoundState, clients: ClientStore) -> dict[str, Any]:
        """Return what fine-tuning on each of some clients of the eval split does for them; exact, like all
        evaluation.
        """
        if not self.config.evaluation.personalize:
            return {}
        from federated.evaluation import personalize

        if simulation.model is None:
            raise BadInputError("evaluation.personalize: this engine has no model to fine-tune", fix="drop it")
        found = personalize(
            model=simulation.model,
            clients=clients,
            algorithm=self.config.algorithm,
            state=state,
            chosen=np.arange(min(self.config.evaluation.personalize, clients.num_clients)),
        )
        return {"personalized": {"clients": len(found.after.clients), **found.summary()}}


def _room(config: ExperimentConfig, first: RoundState) -> int:
    """Return the bytes that a run may write: its lines, their curves, summary and record; and its checkpoints."""
    return _FILES_BYTES + config.rounds * _LINE_BYTES + 2 * bytes_of(first)


def _width(train: ClientStore) -> int:
    return int(train.features["features"].shape[1])
