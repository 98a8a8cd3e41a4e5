"""Networks of every kind of layer: weights from 1e-8 to 1e10, pooling up to 400x400, depth 20, 2,000 inputs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from privacy_pipeline.encrypted.model.layers import Input, Layer
from privacy_pipeline.encrypted.model.model_format import PrivateModel

WINDOW = {"strides": (1, 1), "padding": "valid"}


class Network:
    """Layers that are added one behind the other, with random weights."""

    def __init__(self, *inputs: Input, seed: int = 0) -> None:
        self.inputs, self.layers, self.weights = inputs, list[Layer](), dict[str, Any]()
        self.random, self.last = np.random.default_rng(seed), inputs[0].name

    def shape(self, name: str = "") -> tuple[int, ...]:
        """Of a part, by default the last one."""
        model = PrivateModel(inputs=self.inputs, layers=tuple(self.layers), output=self.last, weights={})
        return model.shapes()[name or self.last]

    def add(
        self, op: str, *sources: str, config: dict[str, Any] | None = None, weights: dict[str, Any] | None = None
    ) -> str:
        """Adds an operation on the last part, or on those that are named."""
        name, held = f"{op}{len(self.layers)}", weights or {}
        shapes = {role: np.shape(value) for role, value in held.items()}
        self.weights |= {f"{name}/{role}": np.asarray(value, np.float64) for role, value in held.items()}
        given = sources or (self.last,)
        self.layers.append(Layer(name=name, op=op, inputs=given, config=config or {}, weights=shapes))
        self.last = name
        return name

    def dense(self, units: int, *, scale: float = 1.0, bias: float = 0.1) -> str:
        """A dense layer whose weights have a deviation of `scale` over the root of its inputs."""
        width = self.shape()[-1]
        kernel = self.random.normal(size=(width, units)) * scale / np.sqrt(width)
        return self.add("dense", weights={"kernel": kernel, "bias": self.random.normal(size=units) * bias * scale})

    def convolution(self, kind: str, size: int, filters: int, *, padding: str = "valid", scale: float = 1.0) -> str:
        """A convolution."""
        channels = self.shape()[2]
        shape = (size, size, channels, filters)
        kernel = self.random.normal(size=shape) * scale / size
        config = {"strides": (1, 1), "padding": padding}
        return self.add(kind, config=config, weights={"kernel": kernel})

    def pool(self, kind: str, size: int, *, strides: int | None = None, padding: str = "valid") -> str:
        """A pooling."""
        stride = strides or size
        return self.add(kind, config={"pool": (size, size), "strides": (stride, stride), "padding": padding})

    def flat(self) -> str:
        """One row of all elements."""
        return self.add("reshape", config={"shape": (int(np.prod(self.shape())),)})

    def affine(self, low: float, high: float) -> str:
        """BatchNormalization whose scales lie between two powers of ten."""
        channels = self.shape()[-1]
        scale = 10 ** self.random.uniform(low, high, channels)
        return self.add("affine", weights={"scale": scale, "shift": self.random.normal(size=channels)})

    def done(self) -> PrivateModel:
        """The network, not scaled."""
        return PrivateModel(inputs=self.inputs, layers=tuple(self.layers), output=self.last, weights=self.weights)


def unit(shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Input:
    return Input(name="x", shape=shape, lower=(low,), upper=(high,))


def chain(width: int, *scales: float, seed: int = 0) -> PrivateModel:
    """Dense layers with ReLU between them."""
    network = Network(unit((width,), -1.0, 1.0), seed=seed)
    for scale in scales[:-1]:
        network.dense(16, scale=scale)
        network.add("relu")
    network.dense(1, scale=scales[-1])
    return network.done()


def pooled(side: int, size: int, *, strides: int | None = None, padding: str = "valid", then: str = "") -> PrivateModel:
    """Average pooling, with a dense layer that makes it large."""
    network = Network(unit((side, side, 1)))
    network.pool("average_pool", size, strides=strides, padding=padding)
    if then:
        network.add(then)
    network.flat()
    network.dense(1, scale=10.0)
    return network.done()


def normalised(low: float, high: float, *, before: float = 1.0) -> PrivateModel:
    """BatchNormalization behind a ReLU."""
    network = Network(unit((8,), -1.0, 1.0))
    network.dense(16, scale=before)
    network.add("relu")
    network.affine(low, high)
    network.dense(1)
    return network.done()


def residual(other: float, kind: str = "add") -> PrivateModel:
    """Two branches of different size that are added or joined."""
    network = Network(unit((6,), -1.0, 1.0))
    first = network.dense(8)
    relu = network.add("relu")
    network.dense(8, scale=other)
    second = network.add("relu")
    network.add(kind, relu, second, first, config={"axis": 0} if kind == "concatenate" else {})
    network.dense(1)
    return network.done()


def picture(padding: str, kind: str, scale: float = 1.0) -> PrivateModel:
    """Convolutions and poolings of every kind."""
    network = Network(unit((14, 14, 2), -2.0, 3.0))
    network.convolution("conv2d", 3, 4, padding=padding, scale=scale)
    network.add("relu")
    network.pool(kind, 2)
    network.convolution("depthwise_conv2d", 3, 2)
    network.affine(-1, 1)
    network.add("relu")
    network.pool("average_pool", 3, strides=2)
    network.flat()
    network.dense(3)
    return network.done()


def looked_up(scale: float) -> PrivateModel:
    """An embedding beside numbers."""
    network = Network(
        Input(name="word", shape=(3,), vocabulary=7), Input(name="x", shape=(4,), lower=(-1.0,), upper=(1.0,))
    )
    network.add("embedding", "word", weights={"table": network.random.normal(size=(7, 5)) * scale})
    flat = network.flat()
    network.add("concatenate", flat, "x", config={"axis": 0})
    network.dense(6)
    network.add("relu")
    network.dense(1)
    return network.done()


def mixed_means() -> PrivateModel:
    """Means of different windows, whose scales have no common power of two, added and joined."""
    network = Network(unit((9, 9, 1)))
    three = network.pool("average_pool", 3)
    network.add("reshape", config={"shape": (9,)})
    first = network.last
    network.add("average_pool", "x", config={"pool": (9, 9), "strides": (9, 9), "padding": "valid"})
    network.add("reshape", config={"shape": (1,)})
    second = network.last
    network.add("concatenate", first, second, config={"axis": 0})
    network.dense(9)
    network.add("add", network.last, first)
    network.dense(1)
    assert three
    return network.done()


def silent() -> PrivateModel:
    """A branch that is always 0 beside one that is not."""
    network = Network(unit((4,)))
    network.add("dense", weights={"kernel": -np.ones((4, 3)), "bias": -np.ones(3)})
    nothing = network.add("relu")
    network.add("dense", "x", weights={"kernel": np.ones((4, 3)) * 1e-6})
    network.add("add", nothing, network.last)
    network.dense(1)
    return network.done()


def constant_columns() -> PrivateModel:
    """Inputs of which some have but one value, with large weights."""
    network = Network(Input(name="x", shape=(4,), lower=(0.0, 0.0, 2.0, -1e-9), upper=(0.0, 1.0, 2.0, 1e-9)))
    network.add("dense", weights={"kernel": np.array([[1e12], [1.0], [-3.0], [1e6]]), "bias": np.zeros(1)})
    return network.done()


def _all() -> Iterator[tuple[str, PrivateModel]]:
    for scale in (1e-8, 2.0**-18, 1e-4, 1.0, 1e4, 1e10):
        yield f"dense of scale {scale:.3g}", chain(8, scale, 1.0)
    yield "scales up and down", chain(8, 1e-8, 1e10, 1e-8, 1e8)
    yield "down and up", chain(8, 1e6, 1e-6, 1e6, 1e-6)
    yield "2,000 inputs", chain(2000, 1.0, 1.0)
    yield "2,000 inputs of scale 1e-6", chain(2000, 1e-6, 1.0)
    yield "2,000 inputs alone", chain(2000, 1.0)
    yield "depth 5", chain(8, *[1.0] * 5)
    yield "depth 20", chain(8, *[1.0] * 20)
    yield "depth 20 with small weights", chain(8, *[0.25] * 20)
    yield "depth 20 with large weights", chain(8, *[4.0] * 20)
    for side in (7, 28, 100, 224, 400):
        yield f"mean of {side}x{side}", pooled(side, side)
    yield "padded means of 3", pooled(9, 3, strides=1, padding="same")
    yield "padded means of 30", pooled(40, 30, strides=5, padding="same")
    yield "means of 5, of positive ones", pooled(20, 5, then="relu")
    yield "means of means", dataclasses.replace(mixed_means())
    for low, high in ((-5, -5), (-5, 5), (3, 3), (5, 5)):
        yield f"normalised by 1e{low} to 1e{high}", normalised(low, high)
    yield "normalised small values", normalised(4, 5, before=1e-6)
    for other in (1e-6, 1.0, 1e5):
        yield f"sum with a branch of {other:g}", residual(other)
    yield "joined with a branch of 1e-4", residual(1e-4, "concatenate")
    for padding, kind in itertools.product(("valid", "same"), ("max_pool", "average_pool")):
        yield f"picture, {padding}, {kind}", picture(padding, kind)
    yield "picture of small weights", picture("same", "max_pool", 1e-7)
    for scale in (1e-6, 1.0, 1e6):
        yield f"embedding of {scale:g}", looked_up(scale)
    yield "a branch that is always 0", silent()
    yield "columns of one value", constant_columns()


MODELS = dict(_all())


def rows_of(model: PrivateModel, count: int, *, seed: int = 0) -> dict[str, Any]:
    """Rows within the ranges, some of them at the ends."""
    random = np.random.default_rng(seed)
    found = {}
    for one in model.inputs:
        shape = (count, *one.shape)
        if one.vocabulary:
            found[one.name] = random.integers(0, one.vocabulary, shape)
            continue
        low, high = (np.broadcast_to(np.array(end), shape) for end in (one.lower, one.upper))
        values = random.uniform(low, high)
        values[0], values[1] = low[0], high[0]
        values[2] = np.where(random.random(shape[1:]) < 0.5, low[0], high[0])
        found[one.name] = values
    return found
