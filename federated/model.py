"""A Keras model and its loss, as both engines and evaluation see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from federated.contract import Array, Tensor
from federated.state import require_no_state
from privacy_pipeline.dp.training.from_keras.losses import of_output
from privacy_pipeline.errors import BadInputError


class FederatedModel:
    """A built functional or sequential Keras model with a loss per example.

    Args:
        keras_model: built; its inputs are named, or it has one.
        loss: name or object of a Keras loss; taken of each row, averaged over a batch's rows.

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
        self._held: tuple[Array, ...] | None = None
        self._loss = tf.keras.losses.get(loss)
        self._of_each = of_output(self._loss)
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
        """Return the loss of each row, float32 [rows]: what Keras computes of a batch that holds this row alone.

        Positions that the mask of the predictions leaves out do not count.
        """
        return tf.cast(self._of_each(labels, _in_single(predictions), None), tf.float32)

    def correct(self, labels: Tensor, predictions: Tensor) -> Tensor:
        """Whether each row is predicted right, float32 [rows]; of a row with several positions, the share of them.

        One output: above a half, or above 0 where the loss takes logits. Several: the largest is the label's, which is
        an index or one-hot. Positions that the mask of the predictions leaves out do not count.
        """
        mask = getattr(predictions, "_keras_mask", None)
        if predictions.shape[-1] == 1:
            logits = bool(self._loss.get_config().get("from_logits")) if hasattr(self._loss, "get_config") else False
            positive = predictions[..., 0] > (0.0 if logits else 0.5)
            right = tf.equal(positive, tf.reshape(tf.cast(labels, tf.float32), tf.shape(positive)) > 0.5)
        else:
            one_hot = labels.shape.rank == predictions.shape.rank and labels.shape[-1] == predictions.shape[-1]
            found = tf.argmax(predictions, -1)
            classes = tf.argmax(labels, -1) if one_hot else tf.reshape(tf.cast(labels, tf.int64), tf.shape(found))
            right = tf.equal(found, classes)
        right = tf.cast(right, tf.float32)
        if right.shape.rank == 1:
            return right
        counts = tf.ones_like(right) if mask is None else tf.cast(mask, tf.float32)
        axes = list(range(1, right.shape.rank))
        return tf.math.divide_no_nan(tf.reduce_sum(right * counts, axes), tf.reduce_sum(counts, axes))

    def columns(self, features: Mapping[str, Array]) -> list[Array]:
        """Return the arrays that the model takes, in the order of its inputs.

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
        """Return the Keras model's own output."""
        named = inputs[0] if len(inputs) == 1 else dict(zip(self.input_names, inputs, strict=True))
        return self.keras(named, training=training)

    def weights(self) -> tuple[Array, ...]:
        """Return the trainable weights, copied."""
        return tuple(np.array(weight) for weight in self.keras.trainable_weights)

    def non_trainable(self) -> tuple[Array, ...]:
        """Return the other weights, copied."""
        return tuple(np.array(weight) for weight in self.keras.non_trainable_weights)

    def hold(self, non_trainable: tuple[Array, ...]) -> None:
        """Put the other weights of a state into the Keras model, unless they are there.

        A process that goes on with a run makes the model again, and its first values may be random.

        Args:
            non_trainable: in Keras' order; states of one run share the very tuple.
        """
        if non_trainable is self._held:
            return
        for variable, value in zip(self.keras.non_trainable_weights, non_trainable, strict=True):
            variable.assign(value)
        self._held = non_trainable

    def assign(self, weights: tuple[Array, ...]) -> None:
        """Put trainable weights into the Keras model."""
        for variable, value in zip(self.keras.trainable_weights, weights, strict=True):
            variable.assign(value)


def _in_single(predictions: Tensor) -> Tensor:
    """Return predictions in single precision, with the mask that Keras has put on them."""
    found = tf.cast(predictions, tf.float32)
    mask = getattr(predictions, "_keras_mask", None)
    if mask is not None:
        found._keras_mask = mask
    return found


def label_spec(labels: Array) -> tf.TensorSpec:
    """Return what a pass is given of labels [rows, ...]: floats in single precision, any other type as it is."""
    kind = tf.float32 if labels.dtype.kind == "f" else tf.as_dtype(labels.dtype)
    return tf.TensorSpec([None, *labels.shape[1:]], kind)
