"""Small networks."""

from __future__ import annotations

import itertools

import numpy as np

from privacy_pipeline.encrypted.model.layers import Input, Layer
from privacy_pipeline.encrypted.model.model_format import PrivateModel


def mlp(sizes: list[int], *, seed: int = 0, relu: bool = True, name: str = "x") -> PrivateModel:
    """Dense layers with ReLU between them."""
    random = np.random.default_rng(seed)
    layers, weights, last = [], {}, name
    for number, (before, after) in enumerate(itertools.pairwise(sizes)):
        dense = f"dense{number}"
        layers.append(
            Layer(name=dense, op="dense", inputs=(last,), weights={"kernel": (before, after), "bias": (after,)})
        )
        weights[f"{dense}/kernel"] = random.normal(size=(before, after)) / np.sqrt(before)
        weights[f"{dense}/bias"] = random.normal(size=after)
        last = dense
        if relu and number < len(sizes) - 2:
            last = f"relu{number}"
            layers.append(Layer(name=last, op="relu", inputs=(dense,)))
    return PrivateModel(
        inputs=(Input(name=name, shape=(sizes[0],)),), layers=tuple(layers), output=last, weights=weights
    )


def layered() -> PrivateModel:
    """Every kind of operation that sends messages or moves elements, on small pictures."""
    random = np.random.default_rng(0)
    window = {"strides": (1, 1), "padding": "valid"}
    given: list[tuple[str, tuple[str, ...], dict[str, object], dict[str, tuple[int, ...]]]] = [
        ("conv2d", ("x",), window, {"kernel": (2, 2, 1, 2), "bias": (2,)}),
        ("relu", ("conv2d",), {}, {}),
        ("depthwise_conv2d", ("relu",), window, {"kernel": (2, 2, 2, 1), "bias": (2,)}),
        ("affine", ("depthwise_conv2d",), {}, {"scale": (2,), "shift": (2,)}),
        ("max_pool", ("affine",), {**window, "pool": (2, 2)}, {}),
        ("average_pool", ("affine",), {**window, "pool": (2, 2)}, {}),
        ("add", ("max_pool", "average_pool"), {}, {}),
        ("concatenate", ("add", "max_pool"), {"axis": 2}, {}),
        ("reshape", ("concatenate",), {"shape": (16,)}, {}),
        ("dense", ("reshape",), {}, {"kernel": (16, 1)}),
    ]
    layers = tuple(Layer(name=op, op=op, inputs=inputs, config=c, weights=w) for op, inputs, c, w in given)
    weights = {f"{one.name}/{role}": random.normal(size=s) for one in layers for role, s in one.weights.items()}
    return PrivateModel(inputs=(Input(name="x", shape=(5, 5, 1)),), layers=layers, output="dense", weights=weights)


def residual() -> PrivateModel:
    """A product that a ReLU and a sum both read; more elements than a word has bits."""
    random = np.random.default_rng(0)
    given: list[tuple[str, str, tuple[str, ...], dict[str, tuple[int, ...]]]] = [
        ("wide", "dense", ("x",), {"kernel": (3, 40), "bias": (40,)}),
        ("relu", "relu", ("wide",), {}),
        ("add", "add", ("relu", "wide"), {}),
        ("again", "relu", ("add",), {}),
        ("out", "dense", ("again",), {"kernel": (40, 1)}),
    ]
    layers = tuple(Layer(name=name, op=op, inputs=inputs, weights=w) for name, op, inputs, w in given)
    weights = {f"{one.name}/{role}": random.normal(size=s) for one in layers for role, s in one.weights.items()}
    return PrivateModel(inputs=(Input(name="x", shape=(3,)),), layers=layers, output="out", weights=weights)


PADDED = {"mlp": lambda: mlp([3, 2, 1]), "residual": residual, "layered": layered}
