"""The layers of a private network on replicated shares: linear maps, pooling, ReLU.

Everything that moves or adds elements runs on each share by itself. A product is opened under a mask, truncated, and
shared again if somebody asks for its shares.
All tensors are channels-last and have a batch dimension, as in Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from privacy_pipeline.encrypted.model.layer_shapes import padding_of
from privacy_pipeline.encrypted.model.layers import Layer
from privacy_pipeline.encrypted.model.ranges import multipliers
from privacy_pipeline.encrypted.worker.comparison import relu
from privacy_pipeline.encrypted.worker.secure_aby3 import SecureABY3
from privacy_pipeline.encrypted.worker.shares import held_of, on, private
from privacy_pipeline.encrypted.worker.truncation import truncated

Local = Callable[[Any], Any]
Bilinear = Callable[[Any, Any], Any]


@dataclass(frozen=True, kw_only=True)
class SharedWeights:
    """Shares of one model's weights by "layer/role", on the servers."""

    tensors: Mapping[str, Any]


def each_share(protocol: SecureABY3, function: Callable[..., Any], *values: Any) -> Any:
    """Apply a linear local function (of a share of each value) to every share, on the server that holds it."""
    given = [held_of(value) for value in values]
    shares = []
    for server in range(3):
        with on(protocol, server):
            first, second = (function(*(held[server][half] for held in given)) for half in range(2))
            shares.append((first, second))
    return private(protocol, shares)


def bilinear(protocol: SecureABY3, x: Any, w: Any, function: Bilinear, *, cut: int, bias: Any = None) -> Any:
    """Return a bilinear function of two shared values, plus a bias of the product's scale, as a product without `cut`
    bits.

    Server i holds x_i, x_{i+1}, w_i, w_{i+1} and computes x_i (w_i + w_{i+1}) + x_{i+1} w_i, its third of the product.
    """
    xs, ws = held_of(x), held_of(w)
    thirds = []
    for server in range(3):
        with on(protocol, server):
            (x0, x1), (w0, w1) = xs[server], ws[server]
            third = function(x0, w0 + w1) + function(x1, w0)
            if bias is not None:
                third += held_of(bias)[server][0]
            thirds.append(third)
    return truncated(protocol, thirds, amount=cut)


def evaluate(protocol: SecureABY3, layer: Layer, given: Sequence[Any], weights: SharedWeights) -> Any:
    """Evaluate one layer of the network.

    Args:
        protocol: the current protocol.
        layer: what to compute.
        given: its inputs, each a private tensor or a truncated product, [batch, ...].
        weights: of the whole model.
    """
    held = {role: weights.tensors[f"{layer.name}/{role}"] for role in layer.weights}
    return _OPS[layer.op](protocol, layer, list(given), held)


def _plus(protocol: SecureABY3, x: Any, y: Any) -> Any:
    return each_share(protocol, lambda one, other: one + other, x, y)


def _dense(protocol: SecureABY3, layer: Layer, given: list[Any], held: Mapping[str, Any]) -> Any:
    return bilinear(protocol, given[0], held["kernel"], _matmul, cut=layer.cut, bias=held.get("bias"))


def _matmul(x: Any, w: Any) -> Any:
    rows = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), w)
    return tf.reshape(rows, [*x.shape[:-1], w.shape[-1]])


def _embedding(protocol: SecureABY3, layer: Layer, given: list[Any], held: Mapping[str, Any]) -> Any:
    return bilinear(protocol, given[0], held["table"], _matmul, cut=layer.cut)


def _patches(x: Any, layer: Layer, window: tuple[int, int]) -> Any:
    """Return sliding windows of [batch, height, width, channels]: [batch, rows, columns, window size, channels]."""
    (height, width), channels = window, x.shape[3]
    strides, padding = layer.config["strides"], layer.config["padding"]
    pads = [
        padding_of(x.shape[axis + 1], window=window[axis], stride=strides[axis], padding=padding) for axis in range(2)
    ]
    padded = tf.pad(x, [(0, 0), *pads, (0, 0)])
    found = tf.image.extract_patches(
        padded, [1, height, width, 1], [1, *strides, 1], rates=[1, 1, 1, 1], padding="VALID"
    )
    return tf.reshape(found, [*found.shape[:3], height * width, channels])


def _conv2d(protocol: SecureABY3, layer: Layer, given: list[Any], held: Mapping[str, Any]) -> Any:
    height, width, channels, filters = layer.weights["kernel"]
    flat = each_share(protocol, lambda w: tf.reshape(w, [height * width * channels, filters]), held["kernel"])

    def rows(x: Any) -> Any:
        found = _patches(x, layer, (height, width))
        return tf.reshape(found, [*found.shape[:3], height * width * channels])

    patches = each_share(protocol, rows, given[0])
    return bilinear(protocol, patches, flat, _matmul, cut=layer.cut, bias=held.get("bias"))


def _depthwise(protocol: SecureABY3, layer: Layer, given: list[Any], held: Mapping[str, Any]) -> Any:
    height, width, channels, multiplier = layer.weights["kernel"]
    flat = each_share(protocol, lambda w: tf.reshape(w, [height * width, channels, multiplier]), held["kernel"])
    patches = each_share(protocol, lambda x: _patches(x, layer, (height, width)), given[0])

    def product(x: Any, w: Any) -> Any:
        summed = tf.reduce_sum(x[..., None] * w, axis=3)
        return tf.reshape(summed, [*summed.shape[:3], channels * multiplier])

    return bilinear(protocol, patches, flat, product, cut=layer.cut, bias=held.get("bias"))


def _average_pool(protocol: SecureABY3, layer: Layer, given: list[Any], held: Mapping[str, Any]) -> Any:
    """Return sums of windows times a whole number by how many elements each has; padding does not count, as in
    Keras.
    """
    window, times = tuple(layer.config["pool"]), multipliers(layer, tuple(given[0].shape[1:]))
    means = each_share(protocol, lambda x: tf.reduce_sum(_patches(x, layer, window), axis=3) * times, given[0])
    return _cut(protocol, layer, means)


def _rescale(protocol: SecureABY3, layer: Layer, given: list[Any], held: Mapping[str, Any]) -> Any:
    return _cut(protocol, layer, each_share(protocol, lambda x: x * layer.factor, given[0]))


def _cut(protocol: SecureABY3, layer: Layer, value: Any) -> Any:
    """Return a sum without the bits that the layer cuts off; where it cuts none, as it is."""
    return truncated(protocol, [pair[0] for pair in held_of(value)], amount=layer.cut) if layer.cut else value


def _max_pool(protocol: SecureABY3, layer: Layer, given: list[Any], held: Mapping[str, Any]) -> Any:
    """Return the maximum of each window, by a tree of comparisons over its elements."""
    window = tuple(layer.config["pool"])
    found = each_share(protocol, lambda x: _patches(x, layer, window), given[0])
    count = window[0] * window[1]
    while count > 1:
        half, odd = divmod(count, 2)
        left = each_share(protocol, lambda x, n=half: x[..., :n, :], found)
        right = each_share(protocol, lambda x, n=half: x[..., n : 2 * n, :], found)
        larger = _plus(protocol, right, relu(protocol, _minus(protocol, left, right)))
        if odd:
            rest = each_share(protocol, lambda x, n=half: x[..., 2 * n :, :], found)
            larger = each_share(protocol, lambda x, y: tf.concat([x, y], axis=3), larger, rest)
        found, count = larger, half + odd
    return each_share(protocol, lambda x: x[..., 0, :], found)


def _minus(protocol: SecureABY3, x: Any, y: Any) -> Any:
    return each_share(protocol, lambda one, other: one - other, x, y)


def _relu(protocol: SecureABY3, layer: Layer, given: list[Any], held: Mapping[str, Any]) -> Any:
    return relu(protocol, given[0])


def _affine(protocol: SecureABY3, layer: Layer, given: list[Any], held: Mapping[str, Any]) -> Any:
    return bilinear(protocol, given[0], held["scale"], lambda x, w: x * w, cut=layer.cut, bias=held["shift"])


def _reshape(protocol: SecureABY3, layer: Layer, given: list[Any], held: Mapping[str, Any]) -> Any:
    return each_share(protocol, lambda x: tf.reshape(x, [x.shape[0], *layer.config["shape"]]), given[0])


def _add(protocol: SecureABY3, layer: Layer, given: list[Any], held: Mapping[str, Any]) -> Any:
    return each_share(protocol, lambda *values: sum(values[1:], values[0]), *given)


def _concatenate(protocol: SecureABY3, layer: Layer, given: list[Any], held: Mapping[str, Any]) -> Any:
    return each_share(protocol, lambda *values: tf.concat(values, axis=layer.config["axis"] + 1), *given)


_OPS: Mapping[str, Callable[[SecureABY3, Layer, list[Any], Mapping[str, Any]], Any]] = {
    "dense": _dense,
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise,
    "average_pool": _average_pool,
    "max_pool": _max_pool,
    "affine": _affine,
    "relu": _relu,
    "reshape": _reshape,
    "add": _add,
    "concatenate": _concatenate,
    "embedding": _embedding,
    "rescale": _rescale,
}
