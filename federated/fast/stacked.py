"""Forward pass of one Keras model with different weights for each client: one batched product a layer.

Rows of all clients are one batch [c * b, ...], so a layer without weights is called as it is; a layer with weights sees
them apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from federated.contract import Tensor, Tensors
from federated.fast.row_losses import row_wise
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
# Each computes an entry from its own row.
_ACTIVATIONS = [
    getattr(tf.keras.activations, name)
    for name in (
        *("linear", "relu", "relu6", "elu", "selu", "gelu", "mish", "leaky_relu", "sigmoid", "hard_sigmoid", "tanh"),
        *("softmax", "softplus", "softsign", "swish", "exponential"),
    )
    if hasattr(tf.keras.activations, name)
]


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
        if kind == "Conv2D":
            return _conv_of_one(layer, own, arguments[0])
        return layer(*arguments, **options)


def stackable(model: FederatedModel) -> bool:
    """Whether `StackedModel` computes exactly what the model does, and rows of two clients never meet.

    All clients' rows are one batch, so every activation and the loss must be Keras' own, and work row by row.
    """
    layers = model.keras.layers
    return single(model) and row_wise(model.loss) and all(_apart(layer) for layer in layers)


def _apart(layer: Any) -> bool:
    """Whether a layer that `single` allows keeps rows apart."""
    kind = type(layer).__name__
    if kind == "Conv2D":
        return False
    axes = np.atleast_1d(layer.axis) if kind in ("Softmax", "Concatenate") else ()
    if any(axis % len(layer.output_shape) == 0 for axis in axes):
        return False
    return kind not in ("Dense", "Activation") or layer.activation in _ACTIVATIONS


def single(model: FederatedModel) -> bool:
    """Whether it does so for one client at a time (c = 1): convolutions with a kernel per client are slow on CPUs."""
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
    if kind == "Conv2D":
        return bool(layer.trainable) and layer.groups == 1 and layer.data_format == "channels_last"
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


def _conv_of_one(layer: Any, own: Tensors, rows: Tensor) -> Tensor:
    padding, kernel = layer.padding.upper(), tf.reshape(own[0], layer.kernel.shape)
    result = tf.nn.conv2d(rows, kernel, layer.strides, padding, dilations=layer.dilation_rate)
    return layer.activation(tf.nn.bias_add(result, own[1][0]) if layer.use_bias else result)
