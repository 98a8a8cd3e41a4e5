"""Which weights are as their initializers made them.

An initializer of Keras draws the same values whenever it is called for the same shape: its seed is fixed when it is
made. So a weight is shown to be new where its layer's own initializer makes it again, bit for bit. Nothing else shows
it: not an initializer that holds an array, for that may hold trained weights, and not code outside of Keras.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

_SUFFIX = "_initializer"
_KEYS = ("", "_kernel")  # `depthwise_initializer` makes `depthwise_kernel`


def steps_of_keras(model: Any) -> int:
    """Return steps of training that Keras has counted on a model, by its own `fit` or by its optimizer."""
    counters = [getattr(model, "_train_counter", None), getattr(getattr(model, "optimizer", None), "iterations", None)]
    return max(0 if counter is None else int(counter) for counter in counters)


def not_new(model: Any) -> list[Any]:
    """Return the weights of a model that are not shown to be as an initializer made them.

    Args:
        model: built Keras model.

    Returns:
        Variables. One that is 0 or 1 throughout is taken for new, whatever made it.
    """
    new = {id(variable) for layer in model._flatten_layers() for variable in _made_again(layer)}
    return [one for one in model.weights if id(one) not in new and not _is_constant(one)]


def _is_constant(variable: Any) -> bool:
    values = np.asarray(variable)
    return bool((values == 0).all() or (values == 1).all())


def _made_again(layer: Any) -> Iterator[Any]:
    """Yield the variables of a layer that its initializers make again."""
    for name in dir(layer):
        initializer = getattr(layer, name, None) if name.endswith(_SUFFIX) else None
        if not _draws_anew(initializer):
            continue
        for key in _KEYS:
            variable = getattr(layer, name[: -len(_SUFFIX)] + key, None)
            if isinstance(variable, tf.Variable) and _same(layer, name, initializer, variable):
                yield variable


def _draws_anew(initializer: Any) -> bool:
    """Return whether an initializer is one of Keras, and holds no array."""
    if not isinstance(initializer, tf.keras.initializers.Initializer):
        return False
    if type(initializer).__module__.partition(".")[0] not in ("keras", "tf_keras"):
        return False
    return np.ndim(getattr(initializer, "value", 0.0)) == 0


def _same(layer: Any, name: str, initializer: Any, variable: Any) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns that an initializer gives the same values again
        shape = tuple(variable.shape)
        if name == "bias" + _SUFFIX and getattr(layer, "unit_forget_bias", False):
            made = _forgetting(initializer, shape, variable.dtype)
        else:
            made = np.asarray(initializer(shape, dtype=variable.dtype))
    return bool(np.array_equal(np.asarray(variable), made))


def _forgetting(initializer: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Return the bias of an LSTM, which begins by remembering: ones in the second quarter."""
    quarter = (shape[-1] // 4,)
    parts = (initializer(quarter), tf.ones(quarter), initializer((2 * quarter[0],)))
    return np.concatenate([np.asarray(tf.cast(part, dtype)) for part in parts])
