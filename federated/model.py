"""A Keras model and its loss, as both engines and evaluation see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from federated.contract import Array, Tensor
from federated.state import require_no_state
from privacy_pipeline.dp.losses import unreduced
from privacy_pipeline.errors import BadInputError


class FederatedModel:
    """A built functional or sequential Keras model with a loss per example.

    Args:
        keras_model: built; its inputs are named, or it has one.
        loss: name or object of a Keras loss; taken per example, averaged over a batch's rows.

    Raises:
        BadInputError: the model is not built, has nothing to train, draws random numbers (rounds could not be resumed
            to the same weights), or has a layer whose state training would move or data taught (see `federated.state`).
    """

    def __init__(self, keras_model: Any, *, loss: Any) -> None:
        if not keras_model.built or not getattr(keras_model, "inputs", None):
            raise BadInputError("model: it is not a built functional model", fix="give its inputs a shape")
        if not keras_model.trainable_weights:
            raise BadInputError("model: it has no trainable weights", fix="add a trainable layer")
        require_no_state(keras_model)
        self.keras = keras_model
        self._loss = tf.keras.losses.get(loss)
        self._unreduced = unreduced(self._loss)
        self.input_names = tuple(keras_model.input_names)
        self.input_specs = tuple(
            tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype, name)
            for name, tensor in zip(self.input_names, keras_model.inputs, strict=True)
        )
        self.shapes = tuple(tuple(weight.shape) for weight in keras_model.trainable_weights)
        self.parameters = int(sum(np.prod(shape, dtype=np.int64) for shape in self.shapes))

    @property
    def loss(self) -> Any:
        """The Keras loss."""
        return self._loss

    def losses(self, labels: Tensor, predictions: Tensor) -> Tensor:
        """Loss of each row, float32 [rows]; where a row has several outputs, their mean."""
        predictions = tf.cast(predictions, tf.float32)
        labels = tf.reshape(labels, tf.shape(predictions)) if self._same_size(labels, predictions) else labels
        values = tf.cast(self._unreduced(labels, predictions), tf.float32)
        return values if values.shape.rank == 1 else tf.reduce_mean(tf.reshape(values, [tf.shape(values)[0], -1]), -1)

    def correct(self, labels: Tensor, predictions: Tensor) -> Tensor:
        """Whether each row is predicted right, float32 [rows].

        One output: above a half, or above 0 where the loss takes logits. Several: the largest is the label's, which is
        an index or one-hot.
        """
        if predictions.shape[-1] == 1:
            logits = bool(self._loss.get_config().get("from_logits")) if hasattr(self._loss, "get_config") else False
            positive = tf.reshape(predictions, [-1]) > (0.0 if logits else 0.5)
            return tf.cast(positive == (tf.reshape(tf.cast(labels, tf.float32), [-1]) > 0.5), tf.float32)
        one_hot = labels.shape.rank == 2 and labels.shape[-1] == predictions.shape[-1]
        classes = tf.argmax(labels, -1) if one_hot else tf.reshape(tf.cast(labels, tf.int64), [-1])
        return tf.cast(tf.argmax(predictions, -1) == classes, tf.float32)

    @staticmethod
    def _same_size(labels: Tensor, predictions: Tensor) -> bool:
        # [rows] labels against [rows, 1] predictions would broadcast to [rows, rows].
        return bool(labels.shape.rank == 1 and predictions.shape.rank == 2 and predictions.shape[-1] == 1)

    def columns(self, features: Mapping[str, Array]) -> list[Array]:
        """The arrays that the model takes, in the order of its inputs.

        Raises:
            BadInputError: one is missing.
        """
        if len(self.input_names) == 1 and len(features) == 1:
            return list(features.values())
        missing = [name for name in self.input_names if name not in features]
        if missing:
            raise BadInputError(
                f"clients: no feature '{missing[0]}', which the model takes", fix=f"there are: {', '.join(features)}"
            )
        return [features[name] for name in self.input_names]

    def predict(self, inputs: list[Tensor], *, training: bool) -> Tensor:
        """The Keras model's own output."""
        named = inputs[0] if len(inputs) == 1 else dict(zip(self.input_names, inputs, strict=True))
        return self.keras(named, training=training)

    def weights(self) -> tuple[Array, ...]:
        """Trainable weights, copied."""
        return tuple(np.array(weight) for weight in self.keras.trainable_weights)

    def non_trainable(self) -> tuple[Array, ...]:
        """The other weights, copied."""
        return tuple(np.array(weight) for weight in self.keras.non_trainable_weights)

    def assign(self, weights: tuple[Array, ...]) -> None:
        """Puts trainable weights into the Keras model."""
        for variable, value in zip(self.keras.trainable_weights, weights, strict=True):
            variable.assign(value)


def label_spec(labels: Array) -> tf.TensorSpec:
    """What a pass is given of labels [rows, ...]: floats in single precision, any other type as it is."""
    kind = tf.float32 if labels.dtype.kind == "f" else tf.as_dtype(labels.dtype)
    return tf.TensorSpec([None, *labels.shape[1:]], kind)
