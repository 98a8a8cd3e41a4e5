"""The DP-SGD backend: TensorFlow Privacy's clipping and noise inside this package's plan, sampler and checks.

Batches are dealt from a fresh permutation, so a row is in at most one batch of an epoch: an epoch is one Gaussian
mechanism over the whole split, and no amplification by sampling is claimed. TensorFlow is imported only to train.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.accounting.plan import MechanismPlan, Relation, Sampler
from privacy_pipeline.backends.base import Executed, TrainingInputs
from privacy_pipeline.backends.verify import require_executed_as_planned, require_units
from privacy_pipeline.config.models import DpSgdSection, PipelineConfig
from privacy_pipeline.errors import BadInputError

if TYPE_CHECKING:
    from privacy_pipeline.backends.keras_io import Rows

MECHANISM = "DP-SGD (Gaussian)"
# TensorFlow keys an unseeded op from one Mersenne Twister a process, seeded with one 32-bit std::random_device draw.
GENERATOR = (
    "noise: tf.random.normal of TensorFlow Privacy 0.9 (Philox4x32-10, keyed by a Mersenne Twister with 32 bits of "
    "OS entropy); shuffling: NumPy PCG64 from OS entropy"
)
SEEDED_GENERATOR = (
    "noise: tf.random.normal of TensorFlow Privacy 0.9 (Philox4x32-10); shuffling: NumPy PCG64; both from a fixed seed"
)


class FullPass:
    """Deals every row into at most one batch of an epoch, and counts how often it did.

    Batches have a constant size; the rows that fill no batch are left out of the epoch. How many is public, which
    ones is random.

    Args:
        rows: rows of the split.
        batch_size: rows of a batch.
        seed: fixes the order; None takes it from the operating system's entropy.
    """

    def __init__(self, *, rows: int, batch_size: int, seed: int | None) -> None:
        self._rows = rows
        self._batch_size = batch_size
        self._generator = np.random.default_rng(seed)
        self.largest_participation = 0

    def epoch(self) -> Iterator[NDArray[np.int64]]:
        """Row indices of each batch of one epoch, int64, [batch_size]."""
        uses = np.zeros(self._rows, np.int64)
        order = self._generator.permutation(self._rows)
        for start in range(0, self._rows - self._batch_size + 1, self._batch_size):
            index = order[start : start + self._batch_size]
            np.add.at(uses, index, 1)
            # Before the batch is handed out: an epoch that is broken off has been counted too.
            self.largest_participation = max(self.largest_participation, int(uses.max()))
            yield index


class DpSgdBackend:
    """Differentially private SGD for single rows."""

    name = "dp_sgd"

    def plan(self, *, config: PipelineConfig, units: int | None) -> MechanismPlan:
        """The mechanism that `train` will run.

        Raises:
            BadInputError: the unit is not a row, the dataset is not registered, or a batch is larger than the split.
        """
        from privacy_pipeline.accounting.events import gaussian_passes

        training = config.training
        if training.dp_sgd is None:
            raise BadInputError("training.dp_sgd is missing", fix="add the block with `delta` and `target_epsilon`")
        registered = _check_plannable(config, units)
        noise = _noise_multiplier(training.dp_sgd, epochs=training.epochs)
        return MechanismPlan(
            backend=self.name,
            mechanism=MECHANISM,
            unit="row",
            contribution_bound=1,
            relation=Relation.ZERO_OUT,
            sampler=Sampler.FULL_PASS,
            units=registered,
            epochs=training.epochs,
            batch_size=training.batch_size,
            steps=training.epochs * (registered // training.batch_size),
            clipping_norm=training.dp_sgd.clipping_norm,
            noise_multiplier=noise,
            delta=training.dp_sgd.delta,
            event=gaussian_passes(noise_multiplier=noise, epochs=training.epochs),
        )

    def train(self, inputs: TrainingInputs) -> Executed:
        """Trains as `inputs.plan` says, and writes the SavedModel.

        Nothing that was computed exactly from private rows leaves this method: losses and metrics are not read, and
        the one curve is of the weights, which the noise protects.

        Raises:
            BadInputError: there is no plan, the train split is empty, or the model cannot be trained privately.
            PipelineError: the split has another size than registered, the training diverged, or what ran is not what
                was planned.
        """
        import tensorflow as tf

        from privacy_pipeline.backends import keras_io
        from privacy_pipeline.backends.tfp_engine import require_private

        plan = inputs.plan
        if plan is None:
            raise BadInputError("backend dp_sgd trains only under a reserved plan", fix="register the dataset")
        seed = inputs.config.training.seed
        if seed is not None:
            tf.keras.utils.set_random_seed(seed)
        # Before the first read, so that a model that is refused has seen no data.
        model = keras_io.build_model(inputs)
        require_private(model)
        optimizer = keras_io.make_optimizer(inputs.config.training)
        rows = keras_io.read_rows(inputs.train_files, transform_graph=inputs.transform_graph)
        require_units(plan, examples=len(rows))
        sampler = FullPass(rows=len(rows), batch_size=plan.batch_size, seed=seed)
        steps, norms = _run(model, optimizer, rows=rows, sampler=sampler, plan=plan, inputs=inputs)
        executed = Executed(
            steps=steps,
            epochs=len(norms),
            examples=len(rows),
            largest_participation=sampler.largest_participation,
            seed_fixed=seed is not None,
            generator=GENERATOR if seed is None else SEEDED_GENERATOR,
            cryptographic=False,
            history={"weights_norm": norms},
        )
        require_executed_as_planned(
            plan,
            steps=executed.steps,
            epochs=executed.epochs,
            examples=executed.examples,
            largest_participation=executed.largest_participation,
        )
        keras_io.save_model(
            model, transform_graph=inputs.transform_graph, features=inputs.features, model_dir=inputs.model_dir
        )
        return executed


def _check_plannable(config: PipelineConfig, units: int | None) -> int:
    if config.dataset.privacy_unit != "row":
        raise BadInputError(
            f"dataset.privacy_unit: backend dp_sgd protects single rows; user-level DP-SGD needs clipping by "
            f"'{config.dataset.privacy_unit.key}', which it does not do",
            fix="set privacy_unit: row if a row is whose privacy is at stake",
        )
    if units is None:
        raise BadInputError(
            f"dataset.name: '{config.dataset.name}' is not registered in the ledger, so the number of units is unknown",
            fix="privacy-pipeline budget register CONFIG",
        )
    if config.training.batch_size > units:
        raise BadInputError(
            f"training.batch_size: {config.training.batch_size} is more than the {units} units of the training split",
            fix=f"set training.batch_size to at most {units}",
        )
    return units


def _noise_multiplier(section: DpSgdSection, *, epochs: int) -> float:
    if section.noise_multiplier is not None:
        return section.noise_multiplier
    if section.target_epsilon is None:
        raise BadInputError("training.dp_sgd gives no noise", fix="give `target_epsilon` or `noise_multiplier`")
    from privacy_pipeline.accounting.calibration import calibrate_noise_multiplier
    from privacy_pipeline.accounting.events import gaussian_passes

    return calibrate_noise_multiplier(
        lambda noise: gaussian_passes(noise_multiplier=noise, epochs=epochs),
        target_epsilon=section.target_epsilon,
        delta=section.delta,
        relation=Relation.ZERO_OUT,
    )


def _run(
    model: Any, optimizer: Any, *, rows: Rows, sampler: FullPass, plan: MechanismPlan, inputs: TrainingInputs
) -> tuple[int, list[float]]:
    """Runs the plan's epochs; the steps made, and the L2 norm of the trained weights after each epoch."""
    import tensorflow as tf

    from privacy_pipeline.backends import keras_io
    from privacy_pipeline.backends.tfp_engine import private_step, without_state

    step = private_step(model, optimizer, clipping_norm=plan.clipping_norm, noise_multiplier=plan.noise_multiplier)
    progress = keras_io.Progress(inputs.report_progress, total=plan.steps)
    writer = tf.summary.create_file_writer(str(inputs.log_dir / "train"))
    steps = 0
    norms: list[float] = []
    with writer.as_default(), without_state(model):
        for epoch in range(1, plan.epochs + 1):
            for index in sampler.epoch():
                step(*rows.batch(index))
                steps += 1
                progress.step(steps)
            keras_io.require_finite_weights(model, epoch=epoch)
            norms.append(float(tf.linalg.global_norm(model.trainable_variables)))
            tf.summary.scalar("epoch_weights_norm", norms[-1], step=epoch)
    writer.close()
    return steps, norms
