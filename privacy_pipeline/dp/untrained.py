"""Whether weights are as their initializers made them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

_SUFFIX = "_initializer"


def is_untrained(model: Any) -> bool:
    """Whether nothing has trained a model, as far as that can be seen.

    Keras counts the steps that it makes. A weight that an initializer makes constant, such as a bias, has that constant
    bit for bit; there must be such a weight. A loop of somebody's own that left every constant weight alone is not
    found out.

    Args:
        model: built Keras model.
    """
    counters = [getattr(model, "_train_counter", None), getattr(getattr(model, "optimizer", None), "iterations", None)]
    if any(counter is not None and int(counter) > 0 for counter in counters):
        return False
    found = [same for layer in model._flatten_layers() for same in _constants_of(layer)]
    return bool(found) and all(found)


def _constants_of(layer: Any) -> list[bool]:
    """For each weight of a layer that begins as a constant, whether it still is that."""
    found = []
    for name in dir(layer):
        if not name.endswith(_SUFFIX):
            continue
        variable = getattr(layer, name[: -len(_SUFFIX)], None)
        initial = _initial(layer, name, getattr(layer, name, None), variable)
        if initial is not None:
            found.append(bool(np.array_equal(np.asarray(variable), initial)))
    return found


def _initial(layer: Any, name: str, initializer: Any, variable: Any) -> Any:
    """What an initializer makes of a weight, where that is known."""
    kinds = (tf.keras.initializers.Zeros, tf.keras.initializers.Ones, tf.keras.initializers.Constant)
    if not isinstance(variable, tf.Variable) or not isinstance(initializer, kinds):
        return None
    values = np.array(initializer(variable.shape, dtype=variable.dtype))
    if name == "bias" + _SUFFIX and getattr(layer, "unit_forget_bias", False):
        values[layer.units : 2 * layer.units] = 1.0  # an LSTM begins by remembering
    return values
