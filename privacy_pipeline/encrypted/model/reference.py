"""The network in plain float64 NumPy: what the parties should compute. `fixed_point` bounds how far off they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from privacy_pipeline.encrypted.model.layer_shapes import padding_of
from privacy_pipeline.encrypted.model.layers import Layer
from privacy_pipeline.encrypted.model.model_format import PrivateModel

Array = NDArray[Any]
_Op = Callable[[Layer, list[Array], Mapping[str, Array]], Array]


def evaluate(model: PrivateModel, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return outputs of every layer.

    Args:
        model: the network.
        inputs: by name, each [rows, ...]; integers for embeddings.

    Returns:
        By layer name, float64, [rows, ...]; `model.output` is the logit.
    """
    values: dict[str, Array] = {}
    for one in model.inputs:
        given = np.asarray(inputs[one.name])
        values[one.name] = given.astype(np.int64) if one.vocabulary else given.astype(np.float64)
    outputs = {}
    for layer in model.layers:
        held = {role: model.weights[f"{layer.name}/{role}"] for role in layer.weights}
        values[layer.name] = outputs[layer.name] = apply(layer, [values[name] for name in layer.inputs], held)
    return outputs


def apply(layer: Layer, given: list[Array], held: Mapping[str, Array]) -> Array:
    """Apply one operation to its inputs, each [rows, ...], with its weights by role; added weights may be left out."""
    return _OPS[layer.op](layer, given, held)


def window_counts(layer: Layer, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return how many elements of an input of this shape each window of a pooling has, [1, rows, columns, channels]."""
    ones = np.ones((1, *shape), np.int64)
    counts: NDArray[np.int64] = windows_of(layer, ones, tuple(layer.config["pool"])).sum(axis=(-2, -1))
    return counts


def windows_of(layer: Layer, x: Array, window: tuple[int, int]) -> Array:
    """Turn [rows, height, width, channels] to [rows, rows out, columns out, channels, window height, window width]."""
    strides, padding = layer.config["strides"], layer.config["padding"]
    pads = [
        padding_of(x.shape[axis + 1], window=window[axis], stride=strides[axis], padding=padding) for axis in range(2)
    ]
    padded = np.pad(x, [(0, 0), *pads, (0, 0)])
    # Its type stub declares one axis only.
    found: Array = sliding_window_view(padded, window, axis=(1, 2))[:, :: strides[0], :: strides[1]]  # type: ignore[call-overload]
    return found


def _dense(layer: Layer, given: list[Array], held: Mapping[str, Array]) -> Array:
    found: Array = given[0] @ held["kernel"] + held.get("bias", 0)
    return found


def _conv2d(layer: Layer, given: list[Array], held: Mapping[str, Array]) -> Array:
    kernel = held["kernel"]
    patches = windows_of(layer, given[0], (kernel.shape[0], kernel.shape[1]))
    found: Array = np.einsum("nyxchw,hwcf->nyxf", patches, kernel, optimize=True) + held.get("bias", 0)
    return found


def _depthwise(layer: Layer, given: list[Array], held: Mapping[str, Array]) -> Array:
    kernel = held["kernel"]
    patches = windows_of(layer, given[0], (kernel.shape[0], kernel.shape[1]))
    found: Array = np.einsum("nyxchw,hwcm->nyxcm", patches, kernel)
    return found.reshape(*found.shape[:3], -1) + held.get("bias", 0)


def _average_pool(layer: Layer, given: list[Array], held: Mapping[str, Array]) -> Array:
    sums = windows_of(layer, given[0], tuple(layer.config["pool"])).sum(axis=(-2, -1))
    found: Array = sums / window_counts(layer, given[0].shape[1:])
    return found


def _max_pool(layer: Layer, given: list[Array], held: Mapping[str, Array]) -> Array:
    found: Array = windows_of(layer, given[0], tuple(layer.config["pool"])).max(axis=(-2, -1))
    return found


def _embedding(layer: Layer, given: list[Array], held: Mapping[str, Array]) -> Array:
    return held["table"][given[0]]


_OPS: Mapping[str, _Op] = {
    "dense": _dense,
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise,
    "average_pool": _average_pool,
    "max_pool": _max_pool,
    "affine": lambda layer, given, held: given[0] * held["scale"] + held.get("shift", 0),
    "relu": lambda layer, given, held: np.maximum(given[0], 0),
    "reshape": lambda layer, given, held: given[0].reshape(len(given[0]), *layer.config["shape"]),
    "add": lambda layer, given, held: sum(given[1:], given[0]),
    "concatenate": lambda layer, given, held: np.concatenate(given, axis=layer.config["axis"] + 1),
    "embedding": _embedding,
    "rescale": lambda layer, given, held: given[0],
}
