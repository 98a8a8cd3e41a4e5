"""Runs one point of an experiment: rounds, evaluation, charge, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from federated.clients.store import ClientStore
from federated.contract import RoundState
from federated.experiments.binding import bound, inputs_in, reading, require_unchanged
from federated.experiments.charging import privacy, silos
from federated.experiments.charging.record import Charge, executed, record_of
from federated.experiments.cohorts import UniformSampler
from federated.experiments.config import ExperimentConfig, Point
from federated.experiments.data import feature_plan, load_clients, load_silos, look_through, source_of
from federated.experiments.evaluation import Evaluation, evaluate
from federated.experiments.inputs import Inputs
from federated.experiments.run_folder import RECORD, RoundLog, RunFolder
from federated.experiments.simulation import Build, Simulation
from federated.privacy.distributed_noise import RELEASED, WRAPPED
from federated.silos.records import SiloRecords
from federated.tables import name_of as name_of_files
from privacy_pipeline.data import private_copy
from privacy_pipeline.data.counting.row_digests import RowHasher
from privacy_pipeline.data.private_copy import PrivateCopy
from privacy_pipeline.data.source import folders_of, row_digests
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.files.atomic import write_atomically
from privacy_pipeline.files.read_once import reading_once
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.charging.sequence import charged
from privacy_pipeline.ledger.state.registration import division_of
from privacy_pipeline.ledger.storage.schema import name_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from privacy_pipeline.dp.graphs.randomness import RunKey
    from privacy_pipeline.ledger.charging.unprotected import Use
    from privacy_pipeline.ledger.ledger import Ledger

NODE = "FederatedTraining"  # the ledger's name of what spends
_LINE_BYTES = 4096  # of a round, in `rounds.jsonl` and TensorBoard; far above what one has
_FILES_BYTES = 4 << 20  # summary, record and a comparison


Report = Callable[[str, int, int], None]  # name of the run, rounds done, rounds


@reading_once()
def run_point(point: Point, *, build: Build, report: Report = lambda *_: None) -> dict[str, Any]:
    """Run a point, or go on with it, and return its summary; a finished run of the same content is not run again.

    Without a guarantee a killed run goes on from its last checkpoint, to the same weights. With one, its key died
    with the process: it starts over, with new noise, and is charged again.

    Args:
        point: settings and seed; bound to its content here where it is not yet (`federated.experiments.binding`).
        build: makes the engine.
        report: gets the progress.

    Raises:
        BadInputError: the data, or the settings for this data, are not usable; nothing was charged.
        BudgetRefusedError: the ledger refuses; no row was read.
    """
    (point,) = bound([point])
    folder = RunFolder(point.folder)
    done = folder.summary()
    if done is not None:
        folder.require(point)
        return done
    with private_copy.taken(source_of(point.config.data), below=reading(point.config)) as copy, copy.original_names():
        require_unchanged(point, copy.source)
        folder.begin(point)
        with folder.in_progress():
            run = _Run(point, inputs_in(point), folder, build, report, copy)
            summary = run.private() if point.config.claims_guarantee else run.without_guarantee()
            folder.finish(summary)
    return summary


@dataclass(frozen=True, kw_only=True)
class _Data:
    """Both splits, read and parsed as a whole."""

    train: ClientStore
    evaluation: ClientStore
    silos: SiloRecords | None = None


@dataclass(frozen=True, kw_only=True)
class _Protected:
    """A run with a guarantee, ready to begin: engine, who takes part, its first state, where its noise comes from.

    `summed` is the round of each noisy sum so far, in their order, as the mechanism itself keeps it.
    """

    simulation: Simulation
    sampler: Any
    first: RoundState
    generator: str
    summed: Sequence[int]


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

    def data(self) -> _Data:
        """Return both splits of the private copy. All of it is read before a charge, so that a bad cell costs nothing.

        Raises:
            BadInputError: a cell or a column is not usable.
        """
        silos_ = self.silo_records() if self.config.silo_privacy else None
        train = self.clients("train") if silos_ is None else silos_.clients
        found = _Data(train=train, evaluation=self.clients("eval"), silos=silos_)
        self.require_tunable(found.evaluation)
        return found

    def silo_records(self) -> SiloRecords:
        return load_silos(self.config.data, source=self.source, plan=self.plan, name=self.name_of("train"))

    def simulation(self, train: ClientStore, aggregator: Any | None) -> Simulation:
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
        self.folder.require_writable(_room(self.config, simulation.engine.initial_state()))
        state = self.folder.restore()
        if state is None:
            self.folder.forget()
            state = simulation.engine.initial_state()
        self.folder.keep_rounds(state.round_number)
        return self.rounds(simulation, sampler, state, data)

    def private(self) -> dict[str, Any]:
        ledger = self.ledger()
        if ledger is None:
            raise BadInputError(f"there is no ledger at {name_of(self.config.ledger)}", fix=privacy.REGISTER_FIX)
        known = privacy.registered(self.config, ledger, span=self.source.span)
        plan_of = silos.charged if self.config.silo_privacy is not None else privacy.charged
        charge: Charge = plan_of(self.config, units=known.splits["train"].units)
        begun = datetime.now(timezone.utc).isoformat(timespec="seconds")
        if isinstance(charge, privacy.ChargedExperiment):
            privacy.require_room(self.config, charge, self.plan)
        if ledger.forecast(charge, dataset=known.dataset, span=known.span, split="train").fits:
            look_through(self.config.data, source=self.source, known=known)  # what is refused below reads nothing
        with charged(
            ledger.spend(
                dataset=self.config.data.dataset.name,
                span=self.source.span,
                data_digest=self.inputs.data,
                split="train",
                run_id=f"{self.config.experiment}-{self.point.name}",
                node=NODE,
                plan=charge,
                division=division_of(self.config.data.dataset),
            ),
            composition=ledger.composition,
            note=lambda: pins.note_again(ledger, data=self.folders, workspace=self.config.folder),
        ) as charging:
            audits = verified(self.config, charge)
            data = self.data()
            protected = self.protected(charge, data)
            self.folder.require_writable(_room(self.config, protected.first))
            self.folder.forget()
            charging.start()
            summary = self.rounds(protected.simulation, protected.sampler, protected.first, data, charge)
            composition, *_ = charging.commit(executed(charge.plan, protected.summed))
            pins.note_again(ledger, data=self.folders, workspace=self.config.folder)
        record = record_of(
            config=self.config,
            charge=charge,
            run_id=f"{self.config.experiment}-{self.point.name}",
            span=self.source.span,
            begun=begun,
            summed=protected.summed,
            counted=summary,
            generator=protected.generator,
            composition=composition,
            inputs=self.inputs,
            audits=audits,
        )
        write_atomically(path=self.folder.path / RECORD, text=record.model_dump_json(indent=1) + "\n")
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

    def protected(self, charge: Charge, data: _Data) -> _Protected:
        """Make the engine whose noise and samples are those of the charge, under a new key."""
        from privacy_pipeline.dp.graphs.randomness import RunKey

        key = RunKey.from_system()
        if isinstance(charge, silos.ChargedSilos) and data.silos is not None:
            return self.by_silos(charge, key, data.silos)
        if not isinstance(charge, privacy.ChargedExperiment):
            raise PipelineError(f"no engine is known for the charge {type(charge).__name__}")
        from federated.privacy.distributed import aggregator_of
        from federated.privacy.sampler import ClientSampler

        plan, train = charge.plan, data.train
        made: list[Any] = []

        def aggregator(shapes: Any) -> Any:
            made.append(aggregator_of(plan=plan, key=key, shapes=shapes))
            return made[-1]

        simulation = self.simulation(train, aggregator)
        sampler = ClientSampler(plan, key, train.num_clients)
        (aggregated,) = made
        return _Protected(
            simulation=simulation,
            sampler=sampler,
            first=simulation.engine.initial_state(),
            generator=aggregated.generator,
            summed=aggregated.summed,
        )

    def by_silos(self, charge: silos.ChargedSilos, key: RunKey, records: SiloRecords) -> _Protected:
        """Return the same, for silos that each protect their own records."""
        from federated.experiments.engines import build_silos

        train = records.clients
        simulation, engine = build_silos(
            self.config, records, charge.plan, key, width=_width(train), seed=self.point.seed
        )
        sampler = UniformSampler(clients=train.num_clients, size=train.num_clients, seed=0)  # all of them
        first = simulation.engine.initial_state()
        return _Protected(
            simulation=simulation, sampler=sampler, first=first, generator=engine.generator, summed=engine.summed
        )

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

    def rounds(
        self,
        simulation: Simulation,
        sampler: Any,
        state: RoundState,
        data: _Data,
        charge: Charge | None = None,
    ) -> dict[str, Any]:
        """Run all rounds from `state` on. What a private run writes down of a round is public or on the eval split."""
        algorithm, total, train, evaluation = self.config.algorithm, self.config.rounds, data.train, data.evaluation
        before = self.folder.rounds()
        sent = [before[-1]["bytes_up"], before[-1]["bytes_down"]] if before else [0, 0]
        watch = _participation(charge, train)
        log, began, found = RoundLog(self.folder), time.perf_counter(), _last_evaluation(before)
        try:
            while state.round_number < total:
                number = state.round_number
                cohort = sampler.cohort(number)
                watch(number, cohort)
                result = simulation.engine.run_round(state, cohort)
                state = result.state
                sent = [sent[0] + result.bytes_up, sent[1] + result.bytes_down]
                line: dict[str, Any] = {"round": number + 1}
                if charge is None:
                    line |= {"bytes_up": sent[0], "bytes_down": sent[1], "clients": result.clients, **result.metrics}
                else:  # the realised cohort is secret: its expected size is what may be released
                    sent_by_all = self.config.clients_per_round * (number + 1)
                    up, down = _private_bytes(charge, state)
                    line |= {"bytes_up": up * sent_by_all, "bytes_down": down * sent_by_all, **_told(state)}
                if (number + 1) % self.config.evaluation.every == 0 or number + 1 == total:
                    found = evaluate(state, evaluation, simulation.predict)
                    line["eval"] = asdict(found)
                    if charge is not None:
                        line["epsilon"] = _epsilon(charge, number + 1)
                log.write(line)
                if "eval" in line and charge is None:
                    log.sync()
                    self.folder.save(state)
                self.report(self.point.name, number + 1, total)
            own = self.personalized(simulation, state, evaluation)
        finally:
            log.close()
            simulation.close()
        last = self.folder.rounds()[-1]
        return {
            "experiment": self.config.experiment,
            "run": self.point.name,
            "settings": dict(self.point.settings),
            "seed": self.point.seed,
            "algorithm": algorithm.name,
            "engine": algorithm.engine,
            "rounds": state.round_number,
            "clients_train": train.num_clients,
            "clients_eval": evaluation.num_clients,
            "clients": train.origin.as_record(),
            "bytes_up": last["bytes_up"],
            "bytes_down": last["bytes_down"],
            # With a guarantee no time is kept: it would reveal how many rows a client has.
            **({"seconds": time.perf_counter() - began} if charge is None else {}),
            **(asdict(found) if found is not None else {}),
            **own,
            **_told(state),
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


def verified(config: ExperimentConfig, charge: Charge) -> tuple[dict[str, str | int | float], ...]:
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


def _told(state: RoundState) -> dict[str, int]:
    """Return what distributed noise counts over the rounds so far, and its guarantee covers."""
    return {name: int(state.aggregator[name]) for name in (RELEASED, WRAPPED) if name in state.aggregator}


def _private_bytes(charge: Charge, state: RoundState) -> tuple[int, int]:
    """Return what one client sends and gets in a round."""
    weights = _bytes_of(state)
    noise = charge.plan.distributed if isinstance(charge, privacy.ChargedExperiment) else None
    return (weights if noise is None else noise.update_bytes), weights


def _participation(charge: Charge | None, train: ClientStore) -> Callable[[int, Any], None]:
    if not isinstance(charge, privacy.ChargedExperiment):  # in silos, the engine demands each of them once
        return lambda number, cohort: None
    from federated.privacy.sampler import Participation

    return Participation(charge.plan, train.num_clients).observe


def _room(config: ExperimentConfig, first: RoundState) -> int:
    """Return the bytes that a run may write: its lines, their curves, summary and record; and its checkpoints."""
    return _FILES_BYTES + config.rounds * _LINE_BYTES + 2 * _bytes_of(first)


def _width(train: ClientStore) -> int:
    return int(train.features["features"].shape[1])


def _epsilon(charge: Charge, rounds: int) -> float:
    from privacy_pipeline.accounting.accountants import epsilon_of

    plan = charge.plan
    return epsilon_of(plan.event_of(rounds), delta=plan.delta, relation=plan.relation)


def _bytes_of(state: RoundState) -> int:
    return sum(int(part.nbytes) for part in state.weights)


def _last_evaluation(rounds: list[dict[str, Any]]) -> Evaluation | None:
    evaluated = [line["eval"] for line in rounds if "eval" in line]
    return Evaluation(**evaluated[-1]) if evaluated else None
