"""Forward pass of one Keras model with different weights for each client: one batched product a layer.

Rows of all clients are one batch [c * b, ...], so a layer without weights is called as it is; a layer with weights sees
them apart.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from federated.contract import Tensor, Tensors
from federated.model import FederatedModel

_ROW_BY_ROW = (
    "Activation",
    "Add",
    "AveragePooling2D",
    "CategoryEncoding",
    "Concatenate",
    "Discretization",
    "ELU",
    "Flatten",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "InputLayer",
    "IntegerLookup",
    "LeakyReLU",
    "MaxPooling2D",
    "Multiply",
    "Normalization",
    "Permute",
    "ReLU",
    "Rescaling",
    "Reshape",
    "Softmax",
    "StringLookup",
    "Subtract",
    "ZeroPadding2D",
)


class StackedModel:
    """Runs a model whose layers `stackable` allows.

    Args:
        model: the model.
    """

    def __init__(self, model: FederatedModel) -> None:
        self._keras = model.keras
        self._index = {weight.ref(): i for i, weight in enumerate(model.keras.trainable_weights)}

    def predict(self, weights: Tensors, inputs: Tensors, clients: Tensor) -> Tensor:
        """Predictions.

        Args:
            weights: trainable weights, each [c, ...].
            inputs: in the order of the model's inputs, each [c * b, ...], sorted by client.
            clients: int32 scalar, c.

        Returns:
            [c * b, ...].
        """
        uses = self._keras._tensor_usage_count  # Keras' nodes take each use of a tensor from a list
        ids = [str(id(tensor)) for tensor in self._keras.inputs]
        known = {key: [value] * uses[key] for key, value in zip(ids, inputs, strict=True)}
        for _, nodes in sorted(self._keras._nodes_by_depth.items(), reverse=True):
            for node in nodes:
                if node.is_input or any(key not in known for key in node.flat_input_ids):
                    continue
                arguments, options = node.map_arguments(known)
                outputs = self._call(node.layer, weights, arguments, options, clients)
                for key, value in zip(node.flat_output_ids, tf.nest.flatten(outputs), strict=True):
                    known[key] = [value] * uses[key]
        return known[str(id(self._keras.outputs[0]))].pop()

    def _call(self, layer: Any, weights: Tensors, arguments: Any, options: Any, clients: Tensor) -> Any:
        kind = type(layer).__name__
        own = [weights[self._index[weight.ref()]] for weight in layer.trainable_weights]
        if kind == "Dense":
            return _dense(layer, own, arguments[0], clients)
        if kind == "Embedding":
            return _embedding(own[0], arguments[0], clients)
        return layer(*arguments, **options)


def stackable(model: FederatedModel) -> bool:
    """Whether `StackedModel` computes exactly what the model does."""
    keras = model.keras
    if keras.losses or len(keras.outputs) != 1:
        return False
    return all(_layer_stackable(layer) for layer in keras.layers)


def _layer_stackable(layer: Any) -> bool:
    # Subclasses may do anything, so names are not enough.
    if not type(layer).__module__.startswith("keras."):
        return False
    kind = type(layer).__name__
    if kind == "Dense":
        return bool(layer.trainable)
    if kind == "Embedding":
        return bool(layer.trainable) and not layer.mask_zero
    return kind in _ROW_BY_ROW


def _dense(layer: Any, own: Tensors, rows: Tensor, clients: Tensor) -> Tensor:
    apart = tf.reshape(rows, [clients, -1, rows.shape[-1]])
    product = tf.matmul(apart, own[0])
    if layer.use_bias:
        product += own[1][:, tf.newaxis, :]
    shape = tf.concat([tf.shape(rows)[:-1], [layer.units]], 0)
    return layer.activation(tf.ensure_shape(tf.reshape(product, shape), [*rows.shape[:-1], layer.units]))


def _embedding(table: Tensor, rows: Tensor, clients: Tensor) -> Tensor:
    apart = tf.reshape(tf.cast(rows, tf.int32), [clients, -1])
    values = tf.gather(table, apart, batch_dims=1)
    shape = tf.concat([tf.shape(rows), [table.shape[-1]]], 0)
    return tf.ensure_shape(tf.reshape(values, shape), [*rows.shape, table.shape[-1]])
