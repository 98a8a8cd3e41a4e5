"""TensorFlow Privacy 0.9 behind one function, with the checks that it does not make itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow_privacy.privacy.fast_gradient_clipping import layer_registry
from tensorflow_privacy.privacy.keras_models.dp_keras_model import make_dp_model_class

from privacy_pipeline.errors import BadInputError

PrivateStep = Callable[[Any, Any], None]

_Layer = tf.keras.layers
_ACROSS_ROWS = (_Layer.BatchNormalization,)  # SyncBatchNormalization is a subclass
# Deterministic layers that treat every row by itself; see `clips_fast`.
_ROW_BY_ROW = frozenset(
    {_Layer.InputLayer, _Layer.Dense, _Layer.Activation, _Layer.ReLU, _Layer.Concatenate, _Layer.Flatten}
)


def require_private(model: Any) -> None:
    """Refuses models for which clipping single examples does not bound their influence.

    Raises:
        BadInputError: the model has a layer that mixes rows, or losses of its own.
    """
    layers = [module for module in model.submodules if isinstance(module, _Layer.Layer)]
    for layer in layers:
        if isinstance(layer, _ACROSS_ROWS):
            raise BadInputError(
                f"model: layer '{layer.name}' is a {type(layer).__name__}, which mixes the rows of a batch and saves "
                "their exact statistics; DP-SGD cannot bound one row's influence through it",
                fix="use LayerNormalization or GroupNormalization, or drop the layer",
            )
    if model.losses or any(getattr(layer, "activity_regularizer", None) is not None for layer in layers):
        # TensorFlow Privacy adds the gradient of such losses unclipped and without noise.
        raise BadInputError(
            "model: the model has losses of its own (regularizers or add_loss), which DP-SGD does not clip",
            fix="drop the regularizers",
        )
    if not model.trainable_variables:
        raise BadInputError("model: the model has nothing to train", fix="set trainable on some layer")


def clips_fast(model: Any) -> bool:
    """Whether the norms of per-example gradients may be computed the fast way.

    TensorFlow Privacy's fast form runs the model twice, once for the norms and once for the weighted gradient, and
    adds the squared norms of the layers. Both passes must therefore agree (no dropout), rows must not mix, and no
    layer may be used twice: its norm would be underestimated, and clipping would not bound the gradient.
    """
    return all(
        type(layer) in _ROW_BY_ROW and (len(layer.inbound_nodes) == 1 or not layer.trainable_variables)
        for layer in model.layers
    )


def private_step(model: Any, optimizer: Any, *, clipping_norm: float, noise_multiplier: float) -> PrivateStep:
    """One DP-SGD update of `model`'s trainable variables.

    The gradient of each example is clipped to L2 norm `clipping_norm`; to their sum comes Gaussian noise of standard
    deviation `noise_multiplier * clipping_norm` in each coordinate; the sum is divided by the batch size, which is the
    same for all batches and public.

    Args:
        model: functional Keras model whose output is a logit, [batch, 1].
        optimizer: a Keras optimizer; it sees the private gradient alone.
        clipping_norm: L2 bound of one example's gradient.
        noise_multiplier: standard deviation of the noise in multiples of `clipping_norm`.

    Returns:
        A function of a batch (inputs by name, labels float32 [batch, 1]). It returns nothing: the loss that TensorFlow
        Privacy computes along the way is exact, hence private.

    Raises:
        BadInputError: see `require_private`.
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
    private.compile(optimizer=optimizer, loss=tf.keras.losses.BinaryCrossentropy(from_logits=True))
    optimizer.build(private.trainable_variables)

    def update(inputs: Any, labels: Any) -> None:
        private.train_step((inputs, labels))

    step: PrivateStep = tf.function(update)
    return step


@contextmanager
def without_state(model: Any) -> Iterator[None]:
    """Puts the variables that no private gradient updates back to what they were before the training.

    A layer may write exact statistics of a batch into such a variable; none of that may reach the saved model.
    """
    before = [variable.numpy() for variable in model.non_trainable_variables]
    try:
        yield
    finally:
        for variable, value in zip(model.non_trainable_variables, before, strict=True):
            variable.assign(value)
