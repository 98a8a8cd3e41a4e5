"""The federated backend: a simulation of federated training, with user-level privacy where the config asks for it.

With `silo_privacy` each of a few silos protects its own records instead. Without either block a run claims nothing.
TensorFlow is imported only to train.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from privacy_pipeline import backends
from privacy_pipeline.accounting.plan import MechanismPlan
from privacy_pipeline.backends.base import Audits, Executed, Specs, TrainingInputs
from privacy_pipeline.backends.simulation import federated_plan, federated_silos
from privacy_pipeline.backends.verify import require_executed_as_planned, require_units
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.tasks import registry as tasks

if TYPE_CHECKING:
    from federated.clients.store import ClientStore
    from federated.privacy.plan import FederatedPlan
    from federated.privacy.sampler import Cohorts
    from federated.silos.plan import SiloPlan
    from federated.tff_engine.worker import TffWorker
    from privacy_pipeline.backends.simulation.federated_rounds import PipelineRounds
    from privacy_pipeline.data.schema.features import FeaturePlan
    from privacy_pipeline.dp.rowwise.verdict import Verdict

_SAMPLING = "sampling of clients: NumPy Philox4x64-10 with a 128-bit key"


class FederatedBackend:
    """Federated training, simulated in this process."""

    name = federated_plan.BACKEND

    def plan(self, *, config: PipelineConfig, units: int | None) -> MechanismPlan | None:
        """Return the mechanism that `train` will run; None without a `privacy` or `silo_privacy` block.

        Raises:
            BadInputError: the dataset is not registered, a round has more clients than there are, or the stated silos
                do not add up.
            AccountingError: there is no proven epsilon for what the config asks for.
        """
        if not config.training.claims_guarantee:
            return None
        if config.training.silo_column is not None:
            return federated_silos.mechanism_plan(config, federated_silos.silo_plan(config, units=units))
        return federated_plan.mechanism_plan(config, federated_plan.federated_plan(config, clients=units))

    def examine(
        self, *, config: PipelineConfig, features: FeaturePlan, plan: MechanismPlan, specs: Specs
    ) -> Verdict | None:
        """Return what is proven of the examples of a silo; None where clients are protected, whose rows may mix.

        Raises:
            BadInputError: an example of the model reaches another one, or the model cannot be trained privately.
        """
        if config.training.silo_column is None:
            return None
        return federated_silos.examined(config, features=features, plan=plan, specs=specs())

    def verify(self, inputs: TrainingInputs) -> Audits:
        """Measure the noise of clients' or silos' mechanism, and audit it where the config asks for that.

        Raises:
            PipelineError: the noise is not the one that is accounted, or the audit contradicts the plan.
        """
        if inputs.plan is None:
            return ()
        from federated.privacy.noise_check import require_noise

        section = federated_plan.section_of(inputs.config)
        plan: FederatedPlan | SiloPlan
        if section.silo_privacy is not None:
            plan, asked = federated_silos.reserved_plan(inputs.config, inputs.plan), section.silo_privacy.audit
        else:
            plan = federated_plan.reserved_plan(inputs.config, inputs.plan)
            asked = "none" if section.privacy is None else section.privacy.audit
        require_noise(plan)
        return audited(plan) if asked == "mechanism" else ()

    def train(self, inputs: TrainingInputs) -> Executed:
        """Run the rounds of the plan, and write the SavedModel.

        Under a plan nothing that was computed exactly from clients leaves this method; without one, the curve of the
        clients' training loss does.

        Raises:
            BadInputError: there is no plan where one is needed, the split is empty, or the model cannot be trained so.
            PipelineError: the split has another number of clients than registered, the training diverged, or what ran
                is not what was planned.
            StateMismatch: `state_dir` holds the state of another run; it is destroyed, and must be charged.
        """
        import tensorflow as tf

        config, mechanism = inputs.config, inputs.plan
        if config.training.claims_guarantee and mechanism is None:
            raise BadInputError("backend federated with a guarantee trains only under a reserved plan", fix="register")
        if config.training.seed is not None:
            tf.keras.utils.set_random_seed(config.training.seed)
        audits = self.verify(inputs) if inputs.audits is None else inputs.audits
        # Before the first read, so that a model that is refused has seen no data.
        model = backends.keras_io.build_model(inputs)
        if mechanism is not None and config.training.silo_column is not None:
            executed = _by_silos(inputs, model, mechanism)
        else:
            model, executed = _by_clients(inputs, model, mechanism)
        if mechanism is not None:
            # `fit` of the DP-SGD engine checks its noise by itself; here the rounds are made piece by piece.
            executed = dataclasses.replace(executed, audits=audits)
            require_executed_as_planned(mechanism, executed)
        backends.keras_io.save_model(
            model, transform_graph=inputs.transform_graph, features=inputs.features, model_dir=inputs.model_dir
        )
        return executed


def audited(plan: FederatedPlan | SiloPlan) -> Audits:
    """Return the audit of a plan's mechanism, on made-up clients or records.

    Raises:
        PipelineError: its lower bound lies above what the plan claims.
    """
    from federated.privacy.audit import audit_aggregation

    result = audit_aggregation(plan)
    result.require_sound()
    return (result.to_json(),)


def _by_clients(inputs: TrainingInputs, model: Any, mechanism: MechanismPlan | None) -> tuple[Any, Executed]:
    """Train on cohorts of clients, under the reserved plan if there is one; return the trained model."""
    from privacy_pipeline.backends.simulation.federated_clients import read_clients
    from privacy_pipeline.backends.simulation.federated_rounds import assign

    plan = None if mechanism is None else federated_plan.reserved_plan(inputs.config, mechanism)
    clients, examples = read_clients(inputs, names=list(model.input_names))
    if mechanism is not None:
        require_units(mechanism, units=clients.num_clients)
    with _worker(inputs.config) as worker:
        cohorts: Cohorts = plan or federated_plan.cohort_plan(inputs.config, clients=clients.num_clients)
        training = _training(inputs, model, clients, cohorts, plan, worker)
        with _curves(inputs, training, steps=cohorts.rounds, of_round=1):
            state = training.rounds.run()
        if worker is not None:  # TensorFlow Federated traces in graphs of TensorFlow 1, which a model does not survive
            model = backends.keras_io.build_model(inputs, trained=False)
    assign(model, state)
    return model, _executed(training, cohorts, examples=examples, clients=clients, plan=plan)


def _by_silos(inputs: TrainingInputs, model: Any, mechanism: MechanismPlan) -> Executed:
    """Train by DP-SGD inside each silo, under the reserved plan."""
    from privacy_pipeline.backends.simulation.federated_rounds import PipelineRounds, assign

    plan = federated_silos.reserved_plan(inputs.config, mechanism)
    records = federated_silos.read_silos(inputs, names=list(model.input_names), plan=plan)
    require_units(mechanism, units=sum(records.counts().values()))
    training = PipelineRounds.of_silos(
        task=tasks.of(inputs.config.dataset),
        model=model,
        records=records,
        algorithm=federated_plan.section_of(inputs.config).algorithm,
        plan=plan,
        seed=inputs.config.training.seed,
        state_dir=inputs.state_dir,
        binding=inputs.binding,
    )
    with _curves(inputs, training, steps=plan.steps, of_round=plan.local_steps):
        state = training.rounds.run()
    assign(model, state)
    return federated_silos.executed(training, records, plan)


@contextmanager
def _worker(config: PipelineConfig) -> Iterator[TffWorker | None]:
    """Start TensorFlow Federated's worker process where the config asks for that engine; it ends with the training."""
    if federated_plan.section_of(config).algorithm.engine != "tff":
        yield None
        return
    from federated.tff_engine.worker import TffWorker

    with TffWorker() as worker:
        yield worker


def _training(
    inputs: TrainingInputs,
    model: Any,
    clients: ClientStore,
    cohorts: Cohorts,
    plan: FederatedPlan | None,
    worker: TffWorker | None,
) -> PipelineRounds:
    from privacy_pipeline.backends.simulation.federated_rounds import PipelineRounds

    return PipelineRounds.of_clients(
        task=tasks.of(inputs.config.dataset),
        model=model,
        clients=clients,
        algorithm=federated_plan.section_of(inputs.config).algorithm,
        cohorts=cohorts,
        plan=plan,
        seed=inputs.config.training.seed,
        state_dir=inputs.state_dir if plan is not None else None,
        binding=inputs.binding,
        worker=worker,
    )


@contextmanager
def _curves(inputs: TrainingInputs, training: PipelineRounds, *, steps: int, of_round: int) -> Iterator[None]:
    """Report the steps made, `of_round` in each round, and write the curves for TensorBoard."""
    import tensorflow as tf

    writer = backends.keras_io.summary_writer(inputs.log_dir)
    progress = backends.keras_io.Progress(inputs.report_progress, total=steps)
    written, history = 0, training.curves.history

    def told(done: int) -> None:
        nonlocal written
        progress.step(min(done * of_round, steps))
        epochs = max((len(curve) for curve in history.values()), default=0)
        with writer.as_default():
            for epoch in range(written, epochs):
                for name, curve in history.items():
                    tf.summary.scalar(f"epoch_{name}", curve[epoch], step=epoch + 1)
        written = epochs

    training.curves.told = told
    try:
        yield
    finally:
        writer.close()


def _executed(
    training: PipelineRounds, cohorts: Cohorts, *, examples: int, clients: ClientStore, plan: FederatedPlan | None
) -> Executed:
    """Return what ran in the terms of the protocol.

    A run with a fixed seed is charged as if its noise were secret, but claims no guarantee at all; its record states
    this, as a plain run's does.
    """
    rounds, history, sampling = training.rounds, training.curves.history, cohorts.sampling
    share = getattr(sampling, "probability", 1 / sampling.steps_per_epoch)
    fixed, accounted = training.key.seed_fixed, rounds.accounted
    source = f"{_SAMPLING}, {'FROM A FIXED SEED, not private' if fixed else 'from the OS entropy'}"
    executed = Executed(
        steps=rounds.done,
        epochs=math.ceil(rounds.done * share - 1e-9),
        examples=examples,
        units=clients.num_clients,
        largest_participation=None if rounds.watcher is None else rounds.watcher.largest,
        seed_fixed=fixed,
        generator=f"noise: {'none' if accounted is None else accounted.generator}; {source}",
        cryptographic=plan is not None and not fixed,
        history=history,
        sampler=rounds.sampler.name,
        resumed_at=rounds.resumed_at,
    )
    if plan is None:
        return executed
    from federated.privacy import distributed_record
    from federated.privacy.distributed_noise import RELEASED, WRAPPED
    from federated.privacy.gaussian import WITHHELD

    accounted = rounds.spent()
    accounted.require_whole()
    counted = {name: int(history[name][-1]) for name in (RELEASED, WRAPPED) if name in history}
    return dataclasses.replace(
        executed,
        event=accounted.executed(),
        withheld=WITHHELD,
        assumptions=tuple(distributed_record.assumptions(plan, released=counted.get(RELEASED))),
        accesses=tuple(distributed_record.accesses(plan, over=counted.get(WRAPPED))),
    )
