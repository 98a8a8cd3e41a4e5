"""Mean gradients of one local batch of every client, two ways."""

from __future__ import annotations

from typing import Protocol

import tensorflow as tf

from federated.contract import Tensor, Tensors
from federated.fast.stacked import StackedModel
from federated.model import FederatedModel


class Gradients(Protocol):
    """Gradients at different weights for each client."""

    def __call__(self, weights: Tensors, inputs: Tensors, labels: Tensor, mask: Tensor) -> tuple[Tensors, Tensor]:
        """Return the gradient of the mean loss over each client's real rows; 0 where it has none.

        Args:
            weights: each [c, ...].
            inputs: each [c, b, ...].
            labels: [c, b, ...].
            mask: float32 [c, b], 1 for a real row; a client's real rows come first.

        Returns:
            Gradients like the weights, and the summed losses, float32 [c].
        """
        ...


class StackedGradients:
    """All clients at once."""

    def __init__(self, model: FederatedModel) -> None:
        self._model = model
        self._stacked = StackedModel(model)

    def __call__(self, weights: Tensors, inputs: Tensors, labels: Tensor, mask: Tensor) -> tuple[Tensors, Tensor]:
        """Compute them as the protocol states."""
        clients = tf.shape(mask)[0]
        merged = [_merge(tensor) for tensor in inputs]
        share = tf.math.divide_no_nan(mask, tf.reduce_sum(mask, 1, keepdims=True))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            predictions = self._stacked.predict(weights, merged, clients)
            losses = tf.reshape(self._model.losses(_merge(labels), predictions), tf.shape(mask))
            total = tf.reduce_sum(losses * share)
        gradients = tape.gradient(total, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return gradients, tf.reduce_sum(losses * mask, 1)


class KerasGradients:
    """One client at a time (c = 1), through the Keras model's own trainable variables: any layer, and large models.

    Each call puts the client's weights in; nothing else is kept, since layers with a state are refused.
    """

    def __init__(self, model: FederatedModel) -> None:
        self._model = model

    def __call__(self, weights: Tensors, inputs: Tensors, labels: Tensor, mask: Tensor) -> tuple[Tensors, Tensor]:
        """Compute them as the protocol states."""
        variables = self._model.keras.trainable_weights
        for variable, value in zip(variables, weights, strict=True):
            variable.assign(tf.reshape(value, variable.shape))
        rows = tf.cast(tf.reduce_sum(mask), tf.int32)
        batch = [tf.ensure_shape(tensor[0, :rows], [None, *tensor.shape[2:]]) for tensor in inputs]
        with tf.GradientTape() as tape:
            losses = self._model.losses(labels[0, :rows], self._model.predict(batch, training=True))
            total = tf.reduce_mean(losses)
            if self._model.keras.losses:
                total += tf.add_n(self._model.keras.losses)
        gradients = tape.gradient(total, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        dense = [tf.convert_to_tensor(gradient)[tf.newaxis] for gradient in gradients]
        return dense, tf.reduce_sum(losses)[tf.newaxis]


def _merge(tensor: Tensor) -> Tensor:
    shape = tf.concat([[-1], tf.shape(tensor)[2:]], 0)
    return tf.ensure_shape(tf.reshape(tensor, shape), [None, *tensor.shape[2:]])
