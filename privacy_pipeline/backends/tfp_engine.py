"""TensorFlow Privacy 0.9 as a second engine, for comparison: its clipping and noise under our plan and sampler.

It has no sampler, no check of models, and divides by the realised batch size; all three are mended here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from keras.src.engine import functional
from tensorflow_privacy.privacy.fast_gradient_clipping import layer_registry
from tensorflow_privacy.privacy.keras_models.dp_keras_model import make_dp_model_class

from privacy_pipeline.dp.checks import noise_check
from privacy_pipeline.dp.checks.validator import state_problems
from privacy_pipeline.dp.clipping.intercept import FallbackWarning
from privacy_pipeline.dp.graphs.graph_state import require_stateless, state_of
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.dp.rowwise.verdict import Verdict
from privacy_pipeline.dp.sampling.feeding import Participation
from privacy_pipeline.dp.sampling.sampler import Sampler
from privacy_pipeline.dp.sampling.store import ExampleStore
from privacy_pipeline.dp.training.execution import Execution
from privacy_pipeline.dp.training.model_losses import ModelLosses, per_example_loss
from privacy_pipeline.dp.training.program import finite_norm, specs_of
from privacy_pipeline.dp.training.steps import clipper_of
from privacy_pipeline.errors import BadInputError

_FUNCTIONAL_CALLS = (functional.Functional.call, tf.keras.Sequential.call)
_BATCH_AXES = (0, None)

PrivateStep = Callable[[Any, Any], None]
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

_Layer = tf.keras.layers
_ACROSS_ROWS = (_Layer.BatchNormalization,)  # SyncBatchNormalization is a subclass
# Deterministic layers that treat every row by itself; see `clips_fast`.
_ROW_BY_ROW = frozenset(
    {_Layer.InputLayer, _Layer.Dense, _Layer.Activation, _Layer.ReLU, _Layer.Concatenate, _Layer.Flatten}
)


def require_private(model: Any) -> None:
    """Refuse models for which clipping single examples does not bound their influence.

    Raises:
        BadInputError: the model is a subclass with its own `call`, or has a layer that mixes rows, keeps state or was
            adapted to data, or losses of its own.
    """
    if type(model).call not in _FUNCTIONAL_CALLS:
        # TensorFlow Privacy trains the graph between inputs and outputs, and never this `call`.
        raise BadInputError(
            f"model: {type(model).__name__} has a `call` of its own, which TensorFlow Privacy does not run",
            fix="build it as tf.keras.Model(inputs, outputs), or use `engine: native`",
        )
    layers = [module for module in model.submodules if isinstance(module, _Layer.Layer)]
    for layer in layers:
        if isinstance(layer, _ACROSS_ROWS):
            raise BadInputError(
                f"model: layer '{layer.name}' is a {type(layer).__name__}, which mixes the rows of a batch and saves "
                "their exact statistics; DP-SGD cannot bound one row's influence through it",
                fix="use LayerNormalization or GroupNormalization, or drop the layer",
            )
    for problem in state_problems(model):
        raise BadInputError(f"model: layer '{problem.layer}': {problem.message}", fix=problem.instead)
    if model.losses or any(getattr(layer, "activity_regularizer", None) is not None for layer in layers):
        # TensorFlow Privacy adds the gradient of such losses unclipped and without noise.
        raise BadInputError(
            "model: the model has losses of its own (regularizers or add_loss), which DP-SGD does not clip",
            fix="drop the regularizers",
        )
    if not model.trainable_variables:
        raise BadInputError("model: the model has nothing to train", fix="set trainable on some layer")


def require_noise(plan: PrivacyPlan) -> None:
    """Refuse TensorFlow Privacy's source of noise where its deviation is not the one that is accounted.

    Raises:
        PipelineError: it is another one.
    """
    stddev = plan.noise.multiplier * plan.clipping.norm
    draws = tf.random.normal([noise_check.DRAWS], stddev=stddev).numpy() / plan.expected_batch_size
    noise_check.require([noise_check.measured("noise of the mean gradient", draws, plan.noise_stddev)])


def clips_fast(model: Any) -> bool:
    """Whether the norms of per-example gradients may be computed the fast way.

    TensorFlow Privacy's fast form runs the model twice, once for the norms and once for the weighted gradient, and
    adds the squared norms of the layers. Both passes must therefore agree (no dropout), rows must not mix, and no
    layer may be used twice: its norm would be underestimated, and clipping would not bound the gradient. No code of a
    user runs in it, so that the layers' types show this: else each example is differentiated by itself.
    """
    return all(
        type(layer) in _ROW_BY_ROW
        and (len(layer.inbound_nodes) == 1 or not layer.trainable_variables)
        and _of_keras(getattr(layer, "activation", None))
        and getattr(layer, "axis", -1) not in _BATCH_AXES
        for layer in model.layers
    )


def _of_keras(activation: Any) -> bool:
    """Whether an activation is a function of Keras's own, which works within rows; a user's may do anything."""
    return activation is None or getattr(tf.keras.activations, getattr(activation, "__name__", ""), None) is activation


def _loss() -> Any:
    return tf.keras.losses.BinaryCrossentropy(from_logits=True)


class _Rescaled:
    """An optimizer that gets TensorFlow Privacy's noisy mean over the batch as one over the expected batch.

    The noisy sum over n rows divided by n, times n / expected, is the noisy sum over the expected batch size: clipped
    rows and noise keep their proportion, and nothing is divided by the realised size.
    """

    def __init__(self, optimizer: Any, expected: float) -> None:
        self._optimizer = optimizer
        self._expected = expected
        self.rows: Any = None

    def apply_gradients(self, pairs: Any) -> None:
        factor = tf.cast(self.rows, tf.float32) / self._expected
        self._optimizer.apply_gradients([(gradient * factor, variable) for gradient, variable in pairs])


def private_step(
    model: Any,
    optimizer: Any,
    *,
    clipping_norm: float,
    noise_multiplier: float,
    expected_batch_size: float,
    spec: Any,
    seeded: bool = False,
) -> PrivateStep:
    """Return the step that makes one DP-SGD update of `model`'s trainable variables.

    The gradient of each example is clipped to L2 norm `clipping_norm`; to their sum comes Gaussian noise of standard
    deviation `noise_multiplier * clipping_norm` in each coordinate; the sum is divided by the expected batch size,
    which is public. A batch without rows still takes a noisy step.

    Args:
        model: functional Keras model whose output is a logit, [batch, 1].
        optimizer: a Keras optimizer; it sees the private gradient alone.
        clipping_norm: L2 bound of one example's gradient.
        noise_multiplier: standard deviation of the noise in multiples of `clipping_norm`.
        expected_batch_size: what sums are divided by.
        spec: (inputs, labels) as `tf.TensorSpec` with an open number of rows.
        seeded: whether TensorFlow's seed is set on purpose, and no guarantee is claimed.

    Returns:
        A function of a batch (inputs by name, labels float32 [batch, 1]). It returns nothing: the loss that TensorFlow
        Privacy computes along the way is exact, hence private.

    Raises:
        BadInputError: see `require_private`; or the step keeps values of rows, or draws from a fixed seed.
    """
    require_private(model)
    private_class = make_dp_model_class(tf.keras.Model)
    private = private_class(
        clipping_norm,
        noise_multiplier,
        None,  # one microbatch for each example; larger ones would double the sensitivity
        False,  # XLA is slower here
        layer_registry.make_default_layer_registry() if clips_fast(model) else None,
        inputs=model.inputs,
        outputs=model.outputs[0],
    )
    private.compile(optimizer=optimizer, loss=_loss())
    optimizer.build(private.trainable_variables)
    private.optimizer = rescaled = _Rescaled(optimizer, expected_batch_size)

    @tf.function(input_signature=spec)  # type: ignore[untyped-decorator]
    def update(inputs: Any, labels: Any) -> None:
        rescaled.rows = tf.shape(labels)[0]
        private.train_step((inputs, labels))

    @tf.function  # type: ignore[untyped-decorator]
    def noise_alone() -> None:
        stddev = noise_multiplier * clipping_norm / expected_batch_size
        optimizer.apply_gradients([(tf.random.normal(v.shape, stddev=stddev), v) for v in private.trainable_variables])

    graphs = [update.get_concrete_function().graph, noise_alone.get_concrete_function().graph]
    metrics = [*private.metrics, *private._clipping_loss.metrics]  # of losses that nobody reads
    own = [variable for metric in metrics for variable in metric.variables]
    written = [*private.trainable_variables, *state_of(optimizer), *own]
    for graph in graphs:
        require_stateless(graph, model=model, writes=written, seeds=seeded, part="its private step")

    def step(inputs: Any, labels: Any) -> None:
        if len(labels):
            update(inputs, labels)
        else:
            noise_alone()

    return step


class TfpModel:
    """A Keras model that TensorFlow Privacy trains under a plan; `fit` is that of `dp.training.engine.PrivateModel`.

    Args:
        model: functional Keras model whose output is a logit, [batch, 1].
        plan: the plan; Poisson samples or a fixed partition, one row a unit, flat clipping, independent noise.
        optimizer: a Keras optimizer.
        seed: fixes the batches, and voids the guarantee; TensorFlow's own seed has to be set beside it.

    Raises:
        BadInputError: see `require_private`.
    """

    def __init__(self, *, model: Any, plan: PrivacyPlan, optimizer: Any, seed: int | None) -> None:
        require_private(model)
        self._model = model
        self._plan = plan
        self._optimizer = optimizer
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
        losses = ModelLosses(self._model, per_example_loss(_loss()))
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


@contextmanager
def without_state(model: Any) -> Iterator[None]:
    """Put the variables that no private gradient updates back to what they were before the training.

    A layer may write exact statistics of a batch into such a variable; none of that may reach the saved model.
    """
    before = [variable.numpy() for variable in model.non_trainable_variables]
    try:
        yield
    finally:
        for variable, value in zip(model.non_trainable_variables, before, strict=True):
            variable.assign(value)
