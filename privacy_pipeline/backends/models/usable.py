"""What a backend expects of a Keras model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import tensorflow as tf

from privacy_pipeline.errors import BadInputError


def require_usable(model: Any, *, use: str, inputs: Collection[str]) -> None:
    """Refuse a model that no backend can train.

    Args:
        model: what `build_model` gave.
        use: the module's name, for messages.
        inputs: names of the features that there are.

    Raises:
        BadInputError: it is not a functional Keras model with one logit as output, or needs other inputs.
    """
    what = f"model: build_model of '{use}'"
    if not isinstance(model, tf.keras.Model) or not getattr(model, "inputs", None):
        raise BadInputError(f"{what} returns no functional or built sequential Keras model", fix="return one")
    if tuple(model.output_shape) != (None, 1):
        raise BadInputError(f"{what} has output shape {model.output_shape}, not (None, 1)", fix="end in Dense(1)")
    if getattr(model.layers[-1], "activation", None) is tf.keras.activations.sigmoid:
        raise BadInputError(f"{what} ends in a sigmoid; backends expect the logit", fix="drop the last activation")
    unknown = sorted(set(model.input_names) - set(inputs))
    if unknown:
        raise BadInputError(
            f"{what} has inputs {unknown} that preprocessing_fn does not make",
            fix=f"name the model's inputs after the features: {sorted(inputs)}",
        )
