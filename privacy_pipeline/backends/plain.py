"""The plain backend: Keras as it is, no guarantee. TensorFlow is imported only to train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from privacy_pipeline import backends
from privacy_pipeline.backends.base import Audits, Executed, Specs, TrainingInputs
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.tasks import registry as tasks

if TYPE_CHECKING:
    from privacy_pipeline.accounting.plan import MechanismPlan
    from privacy_pipeline.data.schema.features import FeaturePlan
    from privacy_pipeline.dp.rowwise.verdict import Verdict

GENERATOR = "TensorFlow Philox4x32-10 and NumPy PCG64 (weights, shuffling); no noise"


class PlainBackend:
    """Trains without a privacy guarantee."""

    name = "plain"

    def plan(self, *, config: PipelineConfig, units: int | None) -> None:
        """Return no mechanism: a plain run claims nothing."""
        return None

    def examine(
        self, *, config: PipelineConfig, features: FeaturePlan, plan: MechanismPlan, specs: Specs
    ) -> Verdict | None:
        """Examine nothing: no example's gradient is clipped."""
        del config, features, plan, specs
        return None

    def verify(self, inputs: TrainingInputs) -> Audits:
        """Verify nothing: there is no noise."""
        del inputs
        return ()

    def train(self, inputs: TrainingInputs) -> Executed:
        """Train, and write the SavedModel.

        Raises:
            BadInputError: the train split is empty, or the model is not usable.
            PipelineError: the training diverged.
        """
        model, executed = self.fit(inputs)
        backends.keras_io.save_model(
            model, transform_graph=inputs.transform_graph, features=inputs.features, model_dir=inputs.model_dir
        )
        return executed

    def fit(self, inputs: TrainingInputs) -> tuple[Any, Executed]:
        """Train with mini-batches of every row once an epoch.

        The eval split is watched for its curves alone: nothing is selected by it.

        Raises:
            BadInputError: the train split is empty, or the model is not usable.
            TrainingDiverged: the training diverged.
        """
        import tensorflow as tf

        training = inputs.config.training
        if training.seed is not None:
            tf.keras.utils.set_random_seed(training.seed)
        rows = backends.keras_io.read_rows(
            inputs.train_files, transform_graph=inputs.transform_graph, classes=inputs.features.classes
        )
        held_out = _held_out(inputs)
        model = backends.keras_io.build_model(inputs)
        task = tasks.of(inputs.config.dataset)
        model.compile(
            optimizer=backends.keras_io.make_optimizer(training),
            loss=task.loss(),
            metrics=task.curves(),
        )
        batch_size = training.batch(units=len(rows))
        batches = -(-len(rows) // batch_size)
        counter = _counter(inputs, total=batches * training.epochs)
        history = model.fit(
            dict(rows.inputs),
            rows.labels,
            batch_size=batch_size,
            epochs=training.epochs,
            validation_data=held_out,
            validation_batch_size=8192,
            callbacks=[counter, *_tensorboard(inputs)],
            verbose=0,
        )
        return model, Executed(
            steps=counter.steps,
            epochs=counter.epochs,
            examples=len(rows),
            largest_participation=1,  # `fit` on arrays permutes the rows and deals each out once
            seed_fixed=training.seed is not None,
            generator=GENERATOR,
            cryptographic=False,
            history={name: [float(value) for value in values] for name, values in history.history.items()},
        )


def _tensorboard(inputs: TrainingInputs) -> list[Any]:
    import tensorflow as tf

    if inputs.log_dir is None:
        return []
    return [tf.keras.callbacks.TensorBoard(str(inputs.log_dir), write_graph=False, profile_batch=0)]


def _held_out(inputs: TrainingInputs) -> tuple[dict[str, Any], Any] | None:
    if not inputs.eval_files:
        return None
    rows = backends.keras_io.read_rows(
        inputs.eval_files, transform_graph=inputs.transform_graph, classes=inputs.features.classes
    )
    return dict(rows.inputs), rows.labels


def _counter(inputs: TrainingInputs, *, total: int) -> Any:
    """Return a Keras callback that counts steps and epochs, reports progress and stops a training that diverged."""
    import tensorflow as tf

    class Counter(tf.keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.steps = 0
            self.epochs = 0
            self._progress = backends.keras_io.Progress(inputs.report_progress, total=total)

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            self.steps += 1
            self._progress.step(self.steps)

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            self.epochs += 1
            backends.keras_io.require_finite_weights(self.model, epoch=self.epochs)

    return Counter()
