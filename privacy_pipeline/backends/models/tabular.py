"""The framework's network for tables, and the context that every `build_model(context)` gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from privacy_pipeline.data.schema.features import FeaturePlan
from privacy_pipeline.tasks import registry as tasks


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """One transformed feature that may enter the model.

    Attributes:
        shape: shape of one row, without the batch dimension.
        dtype: TensorFlow's name of the type, for example "float32".
    """

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class ModelContext:
    """What a `build_model(context)` may build on. It holds public facts only.

    Attributes:
        features: the columns and their public domains.
        inputs: transformed features by name, without the label and without the privacy unit's key.
        hidden_units: widths of the hidden layers, from the config.
        dropout: share of activations dropped in training, from the config.
        params: `model.params` of the config, as they are.
    """

    features: FeaturePlan
    inputs: Mapping[str, InputSpec]
    hidden_units: tuple[int, ...]
    dropout: float
    params: Mapping[str, JsonValue]


def build_model(context: ModelContext) -> Any:
    """Return a plain multi-layer perceptron.

    Dense layers only, so that per-example clipping has its fast form and an encrypted backend can convert it.

    Args:
        context: the features and the config's widths.

    Returns:
        An uncompiled functional Keras model. Its inputs are named after the features; its output is that of the task:
        the logit of the positive class, float32, [batch, 1]; one of each class, float32, [batch, classes]; or a number,
        float32, [batch, 1].
    """
    import tensorflow as tf

    inputs = [
        tf.keras.Input(shape=spec.shape, dtype=spec.dtype, name=name) for name, spec in sorted(context.inputs.items())
    ]
    hidden = inputs[0] if len(inputs) == 1 else tf.keras.layers.Concatenate()(inputs)
    for width in context.hidden_units:
        hidden = tf.keras.layers.Dense(width, activation="relu")(hidden)
        if context.dropout > 0:
            hidden = tf.keras.layers.Dropout(context.dropout)(hidden)
    task = tasks.of(context.features)
    last = tf.keras.layers.Dense(task.width(context.features.classes), name=task.output)
    return tf.keras.Model(inputs=inputs, outputs=last(hidden), name="tabular")
