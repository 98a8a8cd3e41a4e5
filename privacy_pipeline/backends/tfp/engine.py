"""TensorFlow Privacy 0.9 as a second engine, for comparison: its clipping and noise under our plan and sampler.

It has no sampler, no check of models, and divides by the realised batch size; all three are mended here.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from privacy_pipeline.backends.tfp.models import require_private, without_state
from privacy_pipeline.backends.tfp.step import private_step
from privacy_pipeline.dp.checks import noise_check
from privacy_pipeline.dp.clipping.intercept import FallbackWarning
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.dp.rowwise.verdict import Verdict
from privacy_pipeline.dp.sampling.feeding import Participation
from privacy_pipeline.dp.sampling.sampler import Sampler
from privacy_pipeline.dp.sampling.store import ExampleStore
from privacy_pipeline.dp.training.execution import Execution
from privacy_pipeline.dp.training.from_keras.model_losses import ModelLosses, per_example_loss
from privacy_pipeline.dp.training.program import finite_norm, specs_of
from privacy_pipeline.dp.training.steps import clipper_of

_EXAMINED_MEMORY = 256 * 2**20  # bytes for gradients in a pass that is traced and not run on data

# TensorFlow keys an unseeded op from one Mersenne Twister a process, seeded with one 32-bit std::random_device draw.
GENERATOR = (
    "noise: tf.random.normal of TensorFlow Privacy 0.9 (Philox4x32-10, keyed by a Mersenne Twister with 32 bits of "
    "OS entropy); sampling: NumPy Philox4x64-10 with a 128-bit key from OS entropy"
)
SEEDED_GENERATOR = (
    "noise: tf.random.normal of TensorFlow Privacy 0.9 (Philox4x32-10); sampling: NumPy Philox4x64-10; both FROM A "
    "FIXED SEED, not private"
)


def require_noise(plan: PrivacyPlan) -> None:
    """Refuse TensorFlow Privacy's source of noise where its deviation is not the one that is accounted.

    Raises:
        PipelineError: it is another one.
    """
    stddev = plan.noise.multiplier * plan.clipping.norm
    draws = tf.random.normal([noise_check.DRAWS], stddev=stddev).numpy() / plan.expected_batch_size
    noise_check.require([noise_check.measured("noise of the mean gradient", draws, plan.noise_stddev)])


class TfpModel:
    """A Keras model that TensorFlow Privacy trains under a plan; `fit` is that of `dp.PrivateModel`.

    Args:
        model: functional Keras model with one output.
        plan: the plan; Poisson samples or a fixed partition, one row a unit, flat clipping, independent noise.
        optimizer: a Keras optimizer.
        loss: a Keras loss of labels and outputs.
        seed: fixes the batches, and voids the guarantee; TensorFlow's own seed has to be set beside it.

    Raises:
        BadInputError: see `require_private`.
    """

    def __init__(self, *, model: Any, plan: PrivacyPlan, optimizer: Any, loss: Any, seed: int | None) -> None:
        require_private(model)
        self._model = model
        self._plan = plan
        self._optimizer = optimizer
        self._loss = loss
        self._seeded = seed is not None
        self._key = RunKey.from_system() if seed is None else RunKey.from_seed(seed)

    def examine(self, x: Any, y: Any) -> Verdict:
        """Whether the model's examples are proven to stay apart, by the same checks as with the native engine.

        Where that is not proven, TensorFlow Privacy differentiates single examples (see `clips_fast`); a layer's cost
        is another one then.

        Args:
            x: nest of `tf.TensorSpec` of the inputs, [None, ...].
            y: the same of the labels.

        Raises:
            BadInputError: a row of the model reaches another one, or the model keeps state.
        """
        losses = ModelLosses(self._model, per_example_loss(self._loss))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)  # of the native engine's speed
            clipper = clipper_of(
                model=self._model, losses=losses, plan=self._plan, x=x, y=y, memory_cap=_EXAMINED_MEMORY
            )
        return clipper.verdict

    def fit(self, store: ExampleStore, *, callbacks: Sequence[Any] = ()) -> Execution:
        """Run the plan's steps.

        Raises:
            BadInputError: the data does not fit the plan.
            PipelineError: the weights are no longer finite.
        """
        verdict = self.examine(*specs_of(store))
        if not self._seeded:
            tf.random.set_seed(None)  # one that a model's code set for its first weights would fix the noise as well
        require_noise(self._plan)
        sampler = Sampler(self._plan, self._key, len(store))
        step = private_step(
            self._model,
            self._optimizer,
            loss=self._loss,
            clipping_norm=self._plan.clipping.norm,
            noise_multiplier=self._plan.noise.multiplier,
            expected_batch_size=self._plan.expected_batch_size,
            spec=specs_of(store),
            seeded=self._seeded,
        )
        watcher = Participation(self._plan, len(store))
        norms: list[float] = []
        length = self._plan.steps_per_epoch
        told = tf.keras.callbacks.CallbackList(list(callbacks), add_history=False, model=self._model)
        with without_state(self._model):
            for number in range(self._plan.steps):
                if number % length == 0:
                    told.on_epoch_begin(number // length)
                told.on_train_batch_begin(number % length)
                index = sampler.batch(number)
                watcher.observe(number, index)
                step(*tf.nest.map_structure(tf.convert_to_tensor, store.rows(index)))
                told.on_train_batch_end(number % length)
                if (number + 1) % length == 0 or number + 1 == self._plan.steps:
                    norms.append(finite_norm(self._model, number + 1))
                    told.on_epoch_end(number // length)
        return Execution(
            plan=self._plan,
            steps=self._plan.steps,
            largest_participation=watcher.largest,
            seed_fixed=self._seeded,
            generator=SEEDED_GENERATOR if self._seeded else GENERATOR,
            cryptographic=False,
            stopped_early=False,
            history={"weights_norm": norms},
            verdict=verdict,
        )
