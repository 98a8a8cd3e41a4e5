"""Forward pass of one Keras model with different weights for each client: one batched product a layer.

Rows of all clients are one batch [c * b, ...], so a layer without weights is called as it is; a layer with weights sees
them apart.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from federated.contract import Tensor, Tensors
from federated.model import FederatedModel
from privacy_pipeline.dp.rowwise.proof import mark_isolated

_CALLED_AS_IS = (
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
    """Runs a model whose layers `single` allows.

    Args:
        model: the model.
    """

    def __init__(self, model: FederatedModel) -> None:
        self._keras = model.keras
        self._index = {weight.ref(): i for i, weight in enumerate(model.keras.trainable_weights)}

    def predict(self, weights: Tensors, inputs: Tensors, clients: Tensor) -> Tensor:
        """Return the predictions.

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


def single(model: FederatedModel) -> bool:
    """Whether `StackedModel` computes what the model does, for one client at a time.

    Whether it may do so for several clients at once, `federated.fast.proof` decides.
    """
    keras = model.keras
    if keras.losses or len(keras.outputs) != 1:
        return False
    return all(_layer_stackable(layer) for layer in keras.layers)


def batched(model: FederatedModel) -> bool:
    """Whether it has a batched product for each layer: convolutions with a kernel per client are slow on CPUs."""
    return single(model) and not any(type(layer).__name__ == "Conv2D" for layer in model.keras.layers)


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
    return kind in _CALLED_AS_IS


def _dense(layer: Any, own: Tensors, rows: Tensor, clients: Tensor) -> Tensor:
    apart = tf.reshape(rows, [clients, -1, rows.shape[-1]])
    product = tf.matmul(apart, own[0])
    if layer.use_bias:
        product += own[1][:, tf.newaxis, :]
    shape = tf.concat([tf.shape(rows)[:-1], [layer.units]], 0)
    return layer.activation(tf.ensure_shape(tf.reshape(product, shape), [*rows.shape[:-1], layer.units]))


def _embedding(table: Tensor, rows: Tensor, clients: Tensor) -> Tensor:
    """Return the looked-up rows; an id outside of the table gives zeros and moves nothing, on every device."""
    given = tf.reshape(tf.cast(rows, tf.int64), [clients, -1])
    known = tf.logical_and(given >= 0, given < table.shape[1])
    values = _lookup(table, tf.where(known, given, tf.zeros_like(given)))
    values *= tf.cast(known, values.dtype)[..., tf.newaxis]
    shape = tf.concat([tf.shape(rows), [table.shape[-1]]], 0)
    return tf.ensure_shape(tf.reshape(values, shape), [*rows.shape, table.shape[-1]])


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _lookup(tables: Tensor, ids: Tensor) -> Any:
    """Return rows of each client's own table: tables [c, V, d], ids int64 [c, n] in [0, V), rows [c, n, d]."""
    size, width = tables.shape[1:]

    def gradient(upstream: Tensor) -> tuple[Tensor, None]:
        clients = tf.shape(ids)[0]
        places = ids + size * tf.range(clients, dtype=tf.int64)[:, tf.newaxis]
        values = tf.reshape(upstream, [-1, width])
        summed = tf.math.unsorted_segment_sum(values, tf.reshape(places, [-1]), clients * size)
        own = tf.ensure_shape(tf.reshape(summed, [clients, size, width]), tables.shape)
        mark_isolated([upstream, ids], [own], by_loop=False)
        return own, None

    return tf.gather(tables, ids, batch_dims=1), gradient


def _conv_of_one(layer: Any, own: Tensors, rows: Tensor) -> Tensor:
    padding, kernel = layer.padding.upper(), tf.reshape(own[0], layer.kernel.shape)
    result = tf.nn.conv2d(rows, kernel, layer.strides, padding, dilations=layer.dilation_rate)
    return layer.activation(tf.nn.bias_add(result, own[1][0]) if layer.use_bias else result)
