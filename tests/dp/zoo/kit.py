"""What entries of the zoo are made of: a model, a loss and data, built anew each time, the same each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

L = tf.keras.layers
ROWS, WIDTH = 8, 4


@dataclass(frozen=True)
class Made:
    """A model with data to try it on.

    Attributes:
        model: built Keras model.
        x: nest of arrays, [ROWS, ...].
        y: nest of arrays.
        loss: as `make_private` takes it.
        high: whole numbers of x lie below it.
        classes: whole numbers of y lie below it.
        words: what strings of x may be.
    """

    model: Any
    x: Any
    y: Any
    loss: Any = "mse"
    high: int = 2
    classes: int = 2
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A named model or loss of the zoo.

    Attributes:
        name: what it is called.
        build: makes it.
        fast: an honest entry should be proven, and train the fast way.
        random: it draws in training mode, so that a row alone cannot be compared with the row in a batch.
    """

    name: str
    build: Callable[[], Made]
    fast: bool = True
    random: bool = False

    def made(self) -> Made:
        """The entry, the same at each call; weights are random, so that none is at a constant which hides something."""
        tf.keras.utils.set_random_seed(0)
        found = self.build()
        generator = np.random.default_rng(1)
        for variable in found.model.trainable_variables:
            variable.assign(generator.normal(size=variable.shape, scale=0.5))
        return found


Zoo = dict[str, Entry]


def adds_to(zoo: Zoo) -> Callable[..., Any]:
    """A decorator, for builders, that adds them to a zoo under their own name."""

    def add(build: Any = None, *, fast: bool = True, random: bool = False) -> Any:
        def keep(function: Callable[[], Made]) -> Callable[[], Made]:
            assert function.__name__ not in zoo
            zoo[function.__name__] = Entry(function.__name__, function, fast=fast, random=random)
            return function

        return keep if build is None else keep(build)

    return add


def joined(*zoos: Mapping[str, Entry]) -> list[Entry]:
    """The entries of some families; names are unique."""
    found: Zoo = {}
    for zoo in zoos:
        assert not found.keys() & zoo.keys()
        found.update(zoo)
    return list(found.values())


def normal(*shape: int, seed: int = 0) -> Any:
    """Data, float32 [ROWS, ...]."""
    return np.random.default_rng(seed).normal(size=(ROWS, *shape)).astype(np.float32)


def whole(high: int, *shape: int, seed: int = 0) -> Any:
    """Whole numbers below `high`, int32 [ROWS, ...]; each occurs where there are enough rows."""
    found = np.random.default_rng(seed).integers(0, high, (ROWS, *shape))
    return found.astype(np.int32)


def targets(out: int = 1) -> Any:
    """Labels for a read-out of some numbers."""
    return normal(out, seed=7)


def through(function: Any, *, width: int = WIDTH) -> Any:
    """A Lambda, called "suspect", that is stated to keep the shape of its input; no op is added."""

    def call(x: Any) -> Any:
        value = function(x)
        value.set_shape(x.shape)
        return value

    return L.Lambda(call, name="suspect")


def hidden(function: Any, *, width: int = WIDTH) -> Made:
    """A function of hidden values that keeps their shape, between two dense layers."""
    layers = [L.Input((WIDTH,)), L.Dense(width), through(function), L.Dense(1)]
    return Made(tf.keras.Sequential(layers), normal(WIDTH), targets())


def raw(function: Any) -> Made:
    """A function of the inputs that keeps their shape, before the one dense layer."""
    return Made(tf.keras.Sequential([L.Input((WIDTH,)), through(function), L.Dense(1)]), normal(WIDTH), targets())


def between(layer: Any) -> Made:
    """A layer, or some, between two dense ones."""
    layers = layer if isinstance(layer, list) else [layer]
    return Made(tf.keras.Sequential([L.Input((WIDTH,)), L.Dense(WIDTH), *layers, L.Dense(1)]), normal(WIDTH), targets())


def dense(loss: Any, y: Any, *, out: int = 1, classes: int = 2, activation: Any = None) -> Made:
    """A model that mixes nothing, under a loss."""
    layers = [L.Input((WIDTH,)), L.Dense(3, "tanh"), L.Dense(out, activation)]
    return Made(tf.keras.Sequential(layers), normal(WIDTH), y, loss, classes=classes)


def table(zoo: Zoo, functions: Mapping[str, Any], make: Callable[[Any], Made] = hidden, *, fast: bool = True) -> None:
    """Adds functions that keep the shape of their input, each in a model made by `make`."""
    for name, function in functions.items():
        assert name not in zoo
        zoo[name] = Entry(name, lambda function=function: make(function), fast=fast)
