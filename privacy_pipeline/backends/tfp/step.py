"""One step of TensorFlow Privacy: its clipping and noise, over the expected batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow_privacy.privacy.fast_gradient_clipping import layer_registry
from tensorflow_privacy.privacy.keras_models.dp_keras_model import make_dp_model_class

from privacy_pipeline.backends.tfp.models import clips_fast, require_private
from privacy_pipeline.dp.graphs.graph_state import require_stateless, state_of

PrivateStep = Callable[[Any, Any], None]


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
    loss: Any,
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
        model: functional Keras model with one output.
        optimizer: a Keras optimizer; it sees the private gradient alone.
        loss: a Keras loss of labels and outputs.
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
    private.compile(optimizer=optimizer, loss=loss)
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
