"""The network in plain float64 NumPy: what the parties should compute, and whether it fits into the fixed-point ring.

The ring has 64 bits, 16 of them behind the point. A product has 32 behind it until it is truncated, and the truncation
(Dalskov, Escudero and Keller, "Secure Evaluation of Quantized Neural Networks", PoPETs 2020) is exact up to the last
bit only below 2^62 in the ring; beyond it the result is wrong without a sign. So nothing may exceed 2^29.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from privacy_pipeline.encrypted.model_format import LARGEST_INPUT, Layer, PrivateModel, padding_of
from privacy_pipeline.errors import BadInputError

LARGEST = 2.0**29
_MARGIN = 16.0  # where only activations of sample rows are known

Array = NDArray[Any]
_Op = Callable[[Layer, list[Array], Mapping[str, Array]], Array]


def evaluate(model: PrivateModel, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of every layer.

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
    return _through(model, values, model.weights)


def require_range(model: PrivateModel, inputs: Mapping[str, Array]) -> str:
    """Refuses a network whose activations could leave the ring.

    Args:
        model: the network with its weights.
        inputs: sample rows, for networks too deep for the bound.

    Returns:
        "proven" where no input in range can overflow, by a bound over all inputs; else "observed on samples".

    Raises:
        BadInputError: an activation of a sample row is too large, or comes close; names the layer.
    """
    for one in model.inputs:
        if not one.vocabulary and not np.abs(inputs[one.name]).max(initial=0) <= LARGEST_INPUT:
            raise BadInputError(
                f"input '{one.name}' has values beyond {LARGEST_INPUT:g}, the range of private prediction",
                fix="scale it in preprocessing_fn",
            )
    if max(float(bound.max()) for bound in _bounds(model).values()) < LARGEST:
        return "proven"
    for name, value in evaluate(model, inputs).items():
        largest = float(np.abs(value).max(initial=0))
        if not largest * _MARGIN < LARGEST:
            raise BadInputError(
                f"layer '{name}' reaches {largest:.3g}, and fixed-point numbers end at {LARGEST / _MARGIN:.3g}",
                fix="normalise it (BatchNormalization), or train with smaller weights",
            )
    return "observed on samples"


def _bounds(model: PrivateModel) -> dict[str, Array]:
    """Bounds of all activations over all inputs in range: the network with absolute weights on the largest input.

    Every operation is linear with absolute weights, or is at most its argument in absolute value.
    """
    values: dict[str, Array] = {}
    weights = {name: np.abs(weight) for name, weight in model.weights.items()}
    for layer in model.layers:
        if layer.op == "embedding":  # whatever value is looked up
            table = weights[f"{layer.name}/table"]
            weights[f"{layer.name}/table"] = np.broadcast_to(table.max(axis=0), table.shape)
    for one in model.inputs:
        values[one.name] = (
            np.zeros((1, *one.shape), np.int64) if one.vocabulary else np.full((1, *one.shape), LARGEST_INPUT)
        )
    return _through(model, values, weights)


def _through(model: PrivateModel, values: dict[str, Array], weights: Mapping[str, Array]) -> dict[str, Array]:
    outputs = {}
    for layer in model.layers:
        held = {role: weights[f"{layer.name}/{role}"] for role in layer.weights}
        values[layer.name] = outputs[layer.name] = _OPS[layer.op](layer, [values[n] for n in layer.inputs], held)
    return outputs


def _patches(layer: Layer, x: Array, window: tuple[int, int]) -> Array:
    """[rows, height, width, channels] to [rows, rows out, columns out, channels, window height, window width]."""
    strides, padding = layer.config["strides"], layer.config["padding"]
    pads = [
        padding_of(x.shape[axis + 1], window=window[axis], stride=strides[axis], padding=padding) for axis in range(2)
    ]
    padded = np.pad(x, [(0, 0), *pads, (0, 0)])
    # Its stub knows one axis only.
    found: Array = sliding_window_view(padded, window, axis=(1, 2))[:, :: strides[0], :: strides[1]]  # type: ignore[call-overload]
    return found


def _dense(layer: Layer, given: list[Array], held: Mapping[str, Array]) -> Array:
    found: Array = given[0] @ held["kernel"] + held.get("bias", 0.0)
    return found


def _conv2d(layer: Layer, given: list[Array], held: Mapping[str, Array]) -> Array:
    kernel = held["kernel"]
    patches = _patches(layer, given[0], (kernel.shape[0], kernel.shape[1]))
    found: Array = np.einsum("nyxchw,hwcf->nyxf", patches, kernel) + held.get("bias", 0.0)
    return found


def _depthwise(layer: Layer, given: list[Array], held: Mapping[str, Array]) -> Array:
    kernel = held["kernel"]
    patches = _patches(layer, given[0], (kernel.shape[0], kernel.shape[1]))
    found: Array = np.einsum("nyxchw,hwcm->nyxcm", patches, kernel)
    return found.reshape(*found.shape[:3], -1) + held.get("bias", 0.0)


def _average_pool(layer: Layer, given: list[Array], held: Mapping[str, Array]) -> Array:
    window = tuple(layer.config["pool"])
    sums = _patches(layer, given[0], window).sum(axis=(-2, -1))
    counts = _patches(layer, np.ones_like(given[0][:1]), window).sum(axis=(-2, -1))
    found: Array = sums / counts
    return found


def _max_pool(layer: Layer, given: list[Array], held: Mapping[str, Array]) -> Array:
    found: Array = _patches(layer, given[0], tuple(layer.config["pool"])).max(axis=(-2, -1))
    return found


def _embedding(layer: Layer, given: list[Array], held: Mapping[str, Array]) -> Array:
    return held["table"][given[0]]


_OPS: Mapping[str, _Op] = {
    "dense": _dense,
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise,
    "average_pool": _average_pool,
    "max_pool": _max_pool,
    "affine": lambda layer, given, held: given[0] * held["scale"] + held["shift"],
    "relu": lambda layer, given, held: np.maximum(given[0], 0),
    "reshape": lambda layer, given, held: given[0].reshape(len(given[0]), *layer.config["shape"]),
    "add": lambda layer, given, held: sum(given[1:], given[0]),
    "concatenate": lambda layer, given, held: np.concatenate(given, axis=layer.config["axis"] + 1),
    "embedding": _embedding,
}
