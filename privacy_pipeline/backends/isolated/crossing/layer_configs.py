"""In the build: which layers of Keras cross as their configuration, and the configuration that does.

Runs beside code of the user's. Nothing here is trusted by the side that takes it over; `configs` looks at all of it.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import tensorflow as tf

from privacy_pipeline.backends.isolated.crossing import configs

_FUNCTIONS = ("activation", "recurrent_activation")


def crosses(layer: Any) -> bool:
    """Whether a layer crosses as its configuration."""
    if isinstance(layer, tf.keras.layers.InputLayer):
        return True
    config = config_of(layer)
    return config is not None and configs.is_allowed(config)


def config_of(layer: Any) -> dict[str, Any] | None:
    """Return its configuration in JSON, where Keras makes the same layer of it; None where it does not."""
    if type(layer) in (tf.keras.Sequential, functional()):
        if not all(crosses(one) for one in layer.layers):
            return None
    elif (
        type(layer) is not getattr(tf.keras.layers, type(layer).__name__, None)
        or type(layer).__name__ not in configs.LAYERS
        or not all(map(_is_of_keras, _functions(layer)))
    ):
        return None
    if any(not crosses(one) for one in _inner(layer)):
        return None
    try:
        config = tf.keras.layers.serialize(layer)
        _drop_given_arrays(config)
        found: dict[str, Any] = json.loads(json.dumps(config, default=_plain))
    except (TypeError, ValueError, NotImplementedError):
        return None
    return found


def _inner(layer: Any) -> list[Any]:
    """Return the layers and cells inside of a wrapper."""
    found = [getattr(layer, name, None) for name in ("layer", "cell", "forward_layer", "backward_layer")]
    return [one for one in [*found, *(getattr(layer, "cells", None) or [])] if isinstance(one, tf.keras.layers.Layer)]


def _functions(layer: Any) -> list[Any]:
    return [getattr(layer, name) for name in _FUNCTIONS if getattr(layer, name, None) is not None]


def _is_of_keras(function: Any) -> bool:
    """Whether a name stands for an activation in Keras, and for the same one in TensorFlow."""
    if isinstance(function, tf.keras.layers.Layer):
        return crosses(function)
    name = getattr(function, "__name__", "")
    known = getattr(tf.keras.activations, name, None)
    return known is not None and function in (known, getattr(tf.nn, name, None), getattr(tf.math, name, None))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tf.TensorShape):
        return value.as_list()
    if isinstance(value, (tuple, list)) or hasattr(value, "__wrapped__"):
        return list(value)
    raise TypeError(type(value).__name__)


def _drop_given_arrays(config: Any) -> None:
    """Replace initializers that do not cross: the weights cross themselves."""
    if isinstance(config, (list, tuple)):
        for one in config:
            _drop_given_arrays(one)
    elif isinstance(config, dict):
        for key, value in config.items():
            if key.endswith("_initializer") and value is not None and not _is_plain(value):
                zeros: dict[str, Any] = {
                    "module": "keras.initializers",
                    "class_name": "Zeros",
                    "config": {},
                    "registered_name": None,
                }
                config[key] = zeros
            else:
                _drop_given_arrays(value)


def _is_plain(initializer: Any) -> bool:
    if not isinstance(initializer, dict) or not configs.is_allowed(initializer):
        return False
    if str(initializer.get("module")) != "keras.initializers":
        return False
    return all(isinstance(one, (int, float, str, bool, type(None))) for one in initializer.get("config", {}).values())


def functional() -> type:
    """Return the class of a functional model, of which `tf.keras.Model` makes one."""
    given = tf.keras.Input((1,))
    return type(tf.keras.Model(given, given))
