"""Which models TensorFlow Privacy trains privately, and how."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from keras.src.engine import functional

from privacy_pipeline.dp.checks.validator import state_problems
from privacy_pipeline.errors import BadInputError

_FUNCTIONAL_CALLS = (functional.Functional.call, tf.keras.Sequential.call)
_BATCH_AXES = (0, None)

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
