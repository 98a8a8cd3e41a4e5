"""Models, optimizers and losses of other libraries than `tf.keras`: one error that names what to use in their place."""

from __future__ import annotations

import re
from typing import Any

import tensorflow as tf

from privacy_pipeline.errors import BadInputError

# Longest first: AdamW and Nadam are not Adam.
_OPTIMIZERS = ("Adafactor", "Adadelta", "Adagrad", "RMSprop", "Adamax", "AdamW", "Nadam", "Adam", "Ftrl", "Lion", "SGD")
_OTHER_NAMES = {"GradientDescent": "SGD", "Momentum": "SGD", "RMSProp": "RMSprop"}
_KERAS = re.compile(r"(keras|keras_core|tf_keras)(\.|$)")


def other_optimizer(optimizer: Any) -> BadInputError:
    """Return the refusal of an optimizer that is not of `tf.keras.optimizers`: a legacy one, or another library's."""
    names = [kind.__name__ for kind in type(optimizer).__mro__]
    better = next((found for name in names if (found := _like(name))), None)
    instead = f"tf.keras.optimizers.{better}(...)" if better else 'one of tf.keras.optimizers, such as "sgd" or "adam"'
    told = f"optimizer {_named(optimizer)} is not one of tf.keras.optimizers (legacy ones are not supported)"
    if _library(optimizer) == "tensorflow_privacy":
        return BadInputError(
            f"{told}; the plan clips and adds the noise", fix=f"use {instead}, without noise of its own"
        )
    return BadInputError(told, fix=f"use {instead}")


def other_model(model: Any) -> BadInputError:
    """Return the refusal of what is not a `tf.keras.Model`, with the way to go on from a model of another Keras."""
    told = _named(model)
    library = _library(model)
    if library in ("keras", "keras_core", "tf_keras"):
        return BadInputError(
            f"{told} is a model of another Keras ({library}) than tf.keras, which is Keras 2 here",
            fix="build it with tf.keras.layers, then new.set_weights(old.get_weights()); with Keras 3 installed, "
            "TF_USE_LEGACY_KERAS=1 makes tf.keras Keras 2",
        )
    return BadInputError(f"{told} is not a Keras model", fix="make_private(keras_model, plan, ...)")


def require_own_step(model: Any) -> None:
    """Refuse models of TensorFlow Privacy, whose own step would clip and add noise a second time.

    Raises:
        BadInputError: it is one.
    """
    kind = next((k for k in type(model).__mro__ if k.__module__.startswith("tensorflow_privacy.")), None)
    if kind is not None:
        raise BadInputError(
            f"{_named(model)} trains by TensorFlow Privacy's {kind.__name__}; the plan clips and adds the noise",
            fix="give the model that it is made of: tf.keras.Model(inputs, outputs) or tf.keras.Sequential(layers)",
        )


def require_loss(loss: Any) -> None:
    """Refuse losses of another Keras, whose reduction is not the one that is undone here.

    Raises:
        BadInputError: it is one.
    """
    for one in tf.nest.flatten(loss):
        kinds = [one if isinstance(one, type) else type(one)]
        foreign = any(
            _KERAS.match(kind.__module__) and kind.__name__ == "Loss" and not issubclass(kind, tf.keras.losses.Loss)
            for kind in kinds[0].__mro__
        )
        if foreign:
            name = kinds[0].__name__
            instead = f"tf.keras.losses.{name}(...)" if hasattr(tf.keras.losses, name) else "one of tf.keras.losses"
            raise BadInputError(f"loss {_named(one)} is of another Keras than tf.keras", fix=f"use {instead}")


def _like(name: str) -> str | None:
    """Return the Keras optimizer that another library's is called after."""
    for part, found in _OTHER_NAMES.items():
        if part.lower() in name.lower():
            return found
    return next((known for known in _OPTIMIZERS if known.lower() in name.lower()), None)


def _library(value: Any) -> str:
    """Return the first library, among those that are distinguished here, that a value's classes come from."""
    modules = [kind.__module__.partition(".")[0] for kind in type(value).__mro__]
    return next((m for m in modules if m in ("tensorflow_privacy", "keras", "keras_core", "tf_keras")), "")


def _named(value: Any) -> str:
    if isinstance(value, type):
        return f"class {value.__name__}"
    kind = type(value)
    return f"a {kind.__name__}" if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
