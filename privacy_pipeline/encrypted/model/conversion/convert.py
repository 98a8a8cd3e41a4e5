"""A Keras model as a network for the parties. Runs where the model was trained; TensorFlow is imported on use.

BatchNormalization is folded into the linear layer before it where it can be. Dropout does nothing. A last sigmoid or
softmax is left out: the client applies it to the revealed logit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from privacy_pipeline.encrypted.model.conversion.converter import Converter
from privacy_pipeline.encrypted.model.conversion.folding import folded
from privacy_pipeline.encrypted.model.conversion.layer_rules import layer_rules
from privacy_pipeline.encrypted.model.fixed_point import scaled
from privacy_pipeline.encrypted.model.layers import LARGEST_INPUT
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.errors import BadInputError

Range = tuple[tuple[float, ...], tuple[float, ...]]  # lowest and highest: one number, or one a place of the last axis


def convert(model: Any, *, ranges: Mapping[str, Range] | None = None, others: float = LARGEST_INPUT) -> PrivateModel:
    """Return the network that gives the model's logit, with a scale for each layer and a proven error.

    Args:
        model: a functional or built sequential Keras model with one output, channels last.
        ranges: public ranges of float inputs by name, which clients keep to.
        others: absolute value of the inputs without one, at most.

    Raises:
        BadInputError: a layer cannot be converted, or what it can reach fits no scale; names it and the reason.
    """
    import tensorflow as tf

    if not isinstance(model, tf.keras.Model) or not getattr(model, "inputs", None) or len(model.outputs) != 1:
        raise BadInputError(
            "encrypted inference needs a functional or built sequential Keras model with one output",
            fix="return one from build_model",
        )
    functional = tf.keras.Model(model.inputs, model.outputs)
    found = Converter(functional, rules=layer_rules())
    for layer in functional.layers:
        found.take(layer)
    converted = PrivateModel(
        inputs=tuple(found.inputs),
        layers=tuple(found.layers),
        output=found.names[functional.output_names[0]],
        weights=found.weights,
    )
    if not converted.layers:
        raise BadInputError("encrypted inference needs a model with at least one layer", fix="add a Dense(1)")
    network = folded(converted)
    network.shapes()
    return scaled(_within(network, ranges or {}, others))


def _within(model: PrivateModel, ranges: Mapping[str, Range], others: float) -> PrivateModel:
    """Return the same network with the ranges of its inputs."""
    inputs = []
    for one in model.inputs:
        lower, upper = ranges.get(one.name, ((-others,), (others,)))
        inputs.append(one if one.vocabulary else dataclasses.replace(one, lower=tuple(lower), upper=tuple(upper)))
    return dataclasses.replace(model, inputs=tuple(inputs))
