"""Networks and rows for benchmarks/encrypted.py, with made-up weights.

A to D are the MNIST networks of SecureML (Mohassel and Zhang, S&P 2017), MiniONN (Liu et al., CCS 2017), LeNet and
Chameleon (Riazi et al., AsiaCCS 2018), as TF-Encrypted's own benchmarks define them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from privacy_pipeline.encrypted.model import fixed_point
from privacy_pipeline.encrypted.model.layers import Input, Layer
from privacy_pipeline.encrypted.model.model_format import PrivateModel

CONV, POOL, RELU, FLAT, DENSE = "conv", "pool", "relu", "flat", "dense"
IMAGE = (28, 28, 1)


def _mlp(*sizes: int) -> list[tuple[Any, ...]]:
    return [(DENSE, sizes[0]), *(step for size in sizes[1:] for step in ((RELU,), (DENSE, size)))]


def _cnn(first: int, second: int, dense: int) -> list[tuple[Any, ...]]:
    steps: list[tuple[Any, ...]] = []
    for filters in (first, second):
        steps += [(CONV, filters, 5, 1, "valid"), (POOL, 2), (RELU,)]
    return [*steps, (FLAT,), *_mlp(dense, 10)]


NETWORKS: dict[str, tuple[tuple[int, ...], list[tuple[Any, ...]]]] = {
    "20-64-32-1": ((20,), _mlp(64, 32, 1)),
    "Adult MLP": ((430,), _mlp(64, 32, 1)),
    "MNIST A": (IMAGE, [(FLAT,), *_mlp(128, 128, 10)]),
    "MNIST B": (IMAGE, _cnn(16, 16, 100)),
    "MNIST C": (IMAGE, _cnn(20, 50, 500)),
    "MNIST D": (IMAGE, [(CONV, 5, 5, 2, "same"), (RELU,), (FLAT,), *_mlp(100, 10)]),
}


def network(name: str) -> PrivateModel:
    """Return the network, which is the same in every call."""
    shape, steps = NETWORKS[name]
    random = np.random.default_rng(0)
    layers: list[Layer] = []
    weights: dict[str, Any] = {}
    for number, (kind, *given) in enumerate(steps):
        made, kernel = _layer(kind, given, shape)
        layer = Layer(
            name=f"{kind}{number}",
            inputs=(layers[-1].name if layers else "x",),
            weights={} if kernel is None else {"kernel": kernel, "bias": kernel[-1:]},
            **made,
        )
        if kernel is not None:
            weights[f"{layer.name}/kernel"] = random.normal(size=kernel) / np.sqrt(math.prod(kernel[:-1]))
            weights[f"{layer.name}/bias"] = random.normal(size=kernel[-1:])
        layers.append(layer)
        partial = PrivateModel(inputs=(_input(name),), layers=tuple(layers), output=layer.name, weights={})
        shape = partial.shapes()[layer.name]
    whole = PrivateModel(inputs=(_input(name),), layers=tuple(layers), output=layers[-1].name, weights=weights)
    return fixed_point.scaled(whole)


def rows_for(model: PrivateModel, batch: int) -> Any:
    """Return uniform rows between 0 and 1."""
    return np.random.default_rng(batch).uniform(0, 1, (batch, *model.inputs[0].shape))


def _input(name: str) -> Input:
    return Input(name="x", shape=NETWORKS[name][0], lower=(0.0,), upper=(1.0,))


def _layer(kind: str, given: list[Any], shape: tuple[int, ...]) -> tuple[dict[str, Any], tuple[int, ...] | None]:
    """Return the operation with its settings, and the shape of its kernel if it has one."""
    if kind == CONV:
        filters, size, stride, padding = given
        config = {"strides": (stride, stride), "padding": padding}
        return {"op": "conv2d", "config": config}, (size, size, shape[2], filters)
    if kind == POOL:
        pair = (given[0], given[0])
        return {"op": "max_pool", "config": {"strides": pair, "pool": pair, "padding": "valid"}}, None
    if kind == FLAT:
        return {"op": "reshape", "config": {"shape": (math.prod(shape),)}}, None
    if kind == DENSE:
        return {"op": "dense"}, (shape[0], given[0])
    return {"op": "relu"}, None
