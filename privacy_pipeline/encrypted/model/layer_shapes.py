"""Shapes and scales of the operations of a private network: what each gives, and that its parts fit together.

It needs NumPy alone, as `model_format`.
"""

from __future__ import annotations

import math

from privacy_pipeline.encrypted.model.layers import Layer, Shape

# Bits that may be cut off a product: a ReLU works on the bits above the 16th, and 61 are all there are.
LEAST_CUT, LARGEST_CUT = 16, 46
LARGEST_FACTOR = 2**61
PRODUCTS = frozenset({"dense", "conv2d", "depthwise_conv2d", "affine", "embedding"})


def shape_of(layer: Layer, given: list[Shape]) -> Shape:
    """Return the shape of one row of what an operation gives.

    Raises:
        KeyError, IndexError, TypeError, ValueError: it does not fit its inputs or weights, or there is no such one.
    """
    return _OPS[layer.op](layer, given)


def require_scales(layer: Layer, given: list[float]) -> None:
    """Check what an operation states of its scale against the scales of its inputs.

    Raises:
        ValueError: they do not fit.
    """
    cut = layer.cut
    if layer.op in PRODUCTS:
        _require(LEAST_CUT <= cut <= LARGEST_CUT, f"cut {cut}")
    elif layer.op == "average_pool":
        _require(cut == 0 or LEAST_CUT <= cut <= LARGEST_CUT, f"cut {cut}")
        _require(layer.scale == given[0] * layer.factor / 2.0**cut, f"scale {layer.scale}")
    elif layer.op == "rescale":
        _require(cut == 0 or LEAST_CUT <= cut <= LARGEST_CUT, f"cut {cut}")
        _require(layer.factor == round(layer.scale * 2.0**cut / given[0]), f"factor {layer.factor}")
    else:
        _require(set(given) == {layer.scale}, f"scales {given} to {layer.scale}")


def padding_of(size: int, *, window: int, stride: int, padding: str) -> tuple[int, int]:
    """Return the number of zeros before and after one dimension, as Keras pads."""
    if padding == "valid":
        return 0, 0
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def windows(layer: Layer, shape: Shape, window: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of the output of a sliding window over [height, width, channels]."""
    found = []
    _require(layer.config["padding"] in ("same", "valid"), f"padding {layer.config['padding']}")
    _require(all(type(one) is int and one >= 1 for one in (*window, *layer.config["strides"])), "window and strides")
    for size, length, stride in zip(shape[:2], window, layer.config["strides"], strict=True):
        padded = size + sum(padding_of(size, window=length, stride=stride, padding=layer.config["padding"]))
        if padded < length:
            raise ValueError(f"a window of {length} does not fit into {size}")
        found.append((padded - length) // stride + 1)
    return found[0], found[1]


def _dense(layer: Layer, given: list[Shape]) -> Shape:
    (shape,), kernel = given, layer.weights["kernel"]
    _require(len(kernel) == 2 and shape[-1] == kernel[0], f"{shape} times {kernel}")
    _require(layer.weights.get("bias", (kernel[1],)) == (kernel[1],), "bias")
    return (*shape[:-1], kernel[1])


def _conv2d(layer: Layer, given: list[Shape]) -> Shape:
    (shape,), kernel = given, layer.weights["kernel"]
    _require(len(kernel) == 4 and len(shape) == 3 and shape[2] == kernel[2], f"{shape} by {kernel}")
    filters = kernel[3] if layer.op == "conv2d" else kernel[2] * kernel[3]
    _require(layer.weights.get("bias", (filters,)) == (filters,), "bias")
    return (*windows(layer, shape, (kernel[0], kernel[1])), filters)


def _pool(layer: Layer, given: list[Shape]) -> Shape:
    (shape,) = given
    height, width = layer.config["pool"]
    if layer.op == "max_pool":
        for size, window, stride in zip(shape[:2], (height, width), layer.config["strides"], strict=True):
            _require(
                padding_of(size, window=window, stride=stride, padding=layer.config["padding"]) == (0, 0), "padding"
            )
    return (*windows(layer, shape, (height, width)), shape[2])


def _affine(layer: Layer, given: list[Shape]) -> Shape:
    (shape,) = given
    _require(layer.weights == {"scale": shape[-1:], "shift": shape[-1:]}, "scale and shift")
    return shape


def _same(layer: Layer, given: list[Shape]) -> Shape:
    _require(len(set(given)) == 1 and not layer.weights, f"{given}")
    return given[0]


def _relu(layer: Layer, given: list[Shape]) -> Shape:
    _require(len(given) == 1, f"{given}")
    return _same(layer, given)


def _reshape(layer: Layer, given: list[Shape]) -> Shape:
    (shape,), target = given, tuple(layer.config["shape"])
    _require(all(isinstance(size, int) and 0 < size < 2**31 for size in target), f"{target}")
    _require(math.prod(shape) == math.prod(target), f"{shape} to {target}")
    return target


def _concatenate(layer: Layer, given: list[Shape]) -> Shape:
    axis = layer.config["axis"]
    _require(isinstance(axis, int) and 0 <= axis < len(given[0]), "axis")
    rest = {shape[:axis] + shape[axis + 1 :] for shape in given}
    _require(len(rest) == 1, f"{given}")
    return (*given[0][:axis], sum(shape[axis] for shape in given), *given[0][axis + 1 :])


def _embedding(layer: Layer, given: list[Shape]) -> Shape:
    (shape,), table = given, layer.weights["table"]
    _require(len(table) == 2, f"{table}")
    return (*shape, table[1])


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


_OPS = {
    "dense": _dense,
    "conv2d": _conv2d,
    "depthwise_conv2d": _conv2d,
    "average_pool": _pool,
    "max_pool": _pool,
    "affine": _affine,
    "relu": _relu,
    "reshape": _reshape,
    "add": _same,
    "concatenate": _concatenate,
    "embedding": _embedding,
    "rescale": _relu,
}
