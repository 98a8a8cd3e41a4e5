"""The DP-SGD backend: the engine of `privacy_pipeline.dp`, or TensorFlow Privacy, under one plan and one sampler.

By default batches are true Poisson samples, so the headline epsilon is the amplified one. TensorFlow is imported only
to train.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from privacy_pipeline import backends
from privacy_pipeline.accounting.plan import MechanismPlan
from privacy_pipeline.backends import private_plan
from privacy_pipeline.backends.base import Audits, Executed, Specs, TrainingInputs
from privacy_pipeline.backends.verify import require_executed_as_planned, require_units
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.tasks import registry as tasks

if TYPE_CHECKING:
    from pathlib import Path

    from privacy_pipeline.backends.example_data import Examples
    from privacy_pipeline.data.schema.features import FeaturePlan
    from privacy_pipeline.dp.plan import PrivacyPlan
    from privacy_pipeline.dp.rowwise.verdict import Verdict
    from privacy_pipeline.dp.training.execution import Execution


class DpSgdBackend:
    """Differentially private SGD."""

    name = private_plan.BACKEND

    def plan(self, *, config: PipelineConfig, units: int | None) -> MechanismPlan:
        """Return the mechanism that `train` will run.

        Raises:
            BadInputError: the dataset is not registered, a batch is larger than the split, or the parts of the config
                do not go together.
            AccountingError: there is no proven epsilon for what the config asks for.
        """
        return private_plan.mechanism_plan(config, private_plan.privacy_plan(config, units=units))

    def examine(self, *, config: PipelineConfig, features: FeaturePlan, plan: MechanismPlan, specs: Specs) -> Verdict:
        """Return what is proven of the examples in the model of the config; TensorFlow Privacy is not examined.

        Raises:
            BadInputError: an example of the model reaches another one, or the model cannot be trained privately.
        """
        found = specs()
        model = backends.keras_io.model_of(config, features=features, specs=found)
        private = _under_plan(model, private_plan.reserved_plan(config, plan), config)
        x, y = backends.keras_io.batch_specs(model, found)
        verdict: Verdict = private.examine(x, y)
        return verdict

    def verify(self, inputs: TrainingInputs) -> Audits:
        """Measure the plan's noise, and audit its mechanism where the config asks for that.

        Raises:
            PipelineError: the noise is not the one that is accounted, or the audit contradicts the plan.
        """
        if inputs.plan is None:
            return ()
        plan = private_plan.reserved_plan(inputs.config, inputs.plan)
        require_noise([plan], inputs.config)
        return audited(plan, inputs.config)

    def train(self, inputs: TrainingInputs) -> Executed:
        """Train as `fit` does, and write the SavedModel.

        Raises:
            BadInputError, PipelineError: as `fit`.
        """
        model, executed = self.fit(inputs)
        backends.keras_io.save_model(
            model, transform_graph=inputs.transform_graph, features=inputs.features, model_dir=inputs.model_dir
        )
        return executed

    def fit(self, inputs: TrainingInputs) -> tuple[Any, Executed]:
        """Train by `inputs.plan`.

        Nothing that was computed exactly from private rows leaves this method: losses and metrics are not computed,
        and the one curve is of the weights, which the noise protects.

        Raises:
            BadInputError: there is no plan, the train split is empty, or the model cannot be trained privately.
            PipelineError: the split has another size than registered, the training diverged, an audit found more than
                the plan claims, or what ran is not what was planned.
        """
        import tensorflow as tf

        from privacy_pipeline.backends.example_data import read_examples

        mechanism = inputs.plan
        if mechanism is None:
            raise BadInputError("backend dp_sgd trains only under a reserved plan", fix="register the dataset")
        plan = private_plan.reserved_plan(inputs.config, mechanism)
        seed = inputs.config.training.seed
        if seed is not None:
            tf.keras.utils.set_random_seed(seed)
        # Before the first read, so that a model that is refused has seen no data.
        model = backends.keras_io.build_model(inputs)
        private = _under_plan(model, plan, inputs.config, state_dir=inputs.state_dir, binding=inputs.binding)
        audits = audited(plan, inputs.config) if inputs.audits is None else inputs.audits
        examples = read_examples(
            inputs.train_files,
            transform_graph=inputs.transform_graph,
            names=model.input_names,
            keyed=isinstance(inputs.config.dataset.privacy_unit, KeyedUnit),
            folder=inputs.work_dir / "examples",
            classes=inputs.features.classes,
        )
        require_units(mechanism, units=examples.units)
        execution = _fit(private, examples, plan, inputs)
        executed = dataclasses.replace(_executed(execution, plan, examples), audits=audits)
        require_executed_as_planned(mechanism, executed)
        return model, executed


def require_noise(plans: Sequence[PrivacyPlan], config: PipelineConfig) -> None:
    """Refuse noise that is not the one that is accounted, as the config's engine draws it.

    Raises:
        PipelineError: it is another one.
    """
    if config.training.dp_sgd is not None and config.training.dp_sgd.engine == "tensorflow_privacy":
        from privacy_pipeline.backends.tfp import engine

        for plan in plans:
            engine.require_noise(plan)
        return
    from privacy_pipeline.dp.checks import noise_check

    noise_check.require_noise(plans)


def audited(plan: PrivacyPlan, config: PipelineConfig) -> Audits:
    """Return the audit that the config asks for, on made-up canaries.

    Raises:
        PipelineError: its lower bound lies above what the plan claims.
    """
    if config.training.dp_sgd is None or config.training.dp_sgd.audit == "none":
        return ()
    from privacy_pipeline.dp.attacks.audit import RUN_CANARIES, audit_mechanism

    result = audit_mechanism(plan, canaries=RUN_CANARIES)
    result.require_sound()
    return (result.to_json(),)


def _under_plan(
    model: Any, plan: PrivacyPlan, config: PipelineConfig, *, state_dir: Path | None = None, binding: str = ""
) -> Any:
    """Return the model under its plan, by the engine that the config names; both have the same `examine` and `fit`."""
    training = config.training
    optimizer, loss = backends.keras_io.make_optimizer(training), tasks.of(config.dataset).loss()
    if training.dp_sgd is not None and training.dp_sgd.engine == "tensorflow_privacy":
        from privacy_pipeline.backends.tfp.engine import TfpModel

        return TfpModel(model=model, plan=plan, optimizer=optimizer, loss=loss, seed=training.seed)
    from privacy_pipeline.dp import make_private

    return make_private(
        model,
        plan,
        optimizer=optimizer,
        loss=loss,
        seed=training.seed,
        state_dir=state_dir,
        binding=binding,
        history="public",  # new weights; what the data cost over all runs stands in the ledger
        remember=False,
    )


def _fit(private: Any, examples: Examples, plan: PrivacyPlan, inputs: TrainingInputs) -> Execution:
    """Run the plan's steps, with progress and the curve of the weights for TensorBoard."""
    writer = backends.keras_io.summary_writer(inputs.log_dir)
    callback = _curves(inputs, plan, writer)
    owners = {} if examples.owners is None else {"users": examples.owners}
    execution: Execution = private.fit(examples.store, callbacks=[callback], **owners)
    writer.close()
    return execution


def _curves(inputs: TrainingInputs, plan: PrivacyPlan, writer: Any) -> Any:
    """Return a Keras callback that reports the steps made, and the norm of the weights after each epoch."""
    import tensorflow as tf

    class Curves(tf.keras.callbacks.Callback):
        sets_no_weights = True

        def __init__(self) -> None:
            super().__init__()
            self._progress = backends.keras_io.Progress(inputs.report_progress, total=plan.steps)
            self._epoch = 0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self._epoch = epoch

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self._progress.step(self._epoch * plan.steps_per_epoch + batch + 1)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            with writer.as_default():
                norm = tf.linalg.global_norm(self.model.trainable_variables)
                tf.summary.scalar("epoch_weights_norm", norm, step=epoch + 1)

    return Curves()


def _executed(execution: Execution, plan: PrivacyPlan, examples: Examples) -> Executed:
    """Return what ran in the terms of the protocol.

    A run with a fixed seed is charged as if its noise were secret, but claims no guarantee at all; its record states
    this, as a plain run's does.
    """
    scheme = plan.parameters()["sampling"]["scheme"]
    most = execution.largest_participation
    # A sample holds a unit with this probability; a partition deals each unit once in this number of steps.
    share = getattr(plan.sampling, "probability", 1 / plan.steps_per_epoch)
    epochs = math.ceil(execution.steps * share - 1e-9)
    event = plan.event_of(execution.steps) if execution.seed_fixed else execution.event
    return Executed(
        steps=execution.steps,
        epochs=epochs,
        examples=len(examples.store),
        units=examples.units,
        largest_participation=None if most is None else math.ceil(most / max(1, epochs)),
        seed_fixed=execution.seed_fixed,
        generator=execution.generator,
        cryptographic=execution.cryptographic,
        history=execution.history,
        event=event,
        sampler=scheme,
        withheld=execution.withheld,
        resumed_at=execution.resumed_at,
        rows=execution.verdict,
    )
