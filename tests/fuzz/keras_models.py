"""Fuzzer of `make_private`: Keras models of all kinds under a plan, with all kinds of arguments."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf

from privacy_pipeline.dp import PrivacyHistory, PrivacyPlan, make_private
from tests.fuzz.watching import Case, Watch

L = tf.keras.layers
_CLEARED = 200  # inputs after which Keras forgets its models


class _Own(tf.keras.Model):  # type: ignore[misc]
    """A subclassed model, built on the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.out = L.Dense(1)

    def call(self, x: Any) -> Any:
        return self.out(x)


class _Stepping(_Own):
    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


def _dicts() -> Any:
    given = {"a": L.Input((2,), name="a"), "b": L.Input((3,), name="b")}
    both = L.Concatenate()(list(given.values()))
    return tf.keras.Model(given, {"p": L.Dense(1, name="p")(both), "q": L.Dense(2, name="q")(both)})


def _sequential(*layers: Any, shape: tuple[int, ...] = (3,)) -> Any:
    return tf.keras.Sequential([L.Input(shape), *layers, L.Dense(1)])


def _compiled() -> Any:
    model = _sequential()
    model.compile("adam", "mse")
    return model


_MODELS: tuple[Callable[[], Any], ...] = (
    lambda: _sequential(L.Dense(2, "relu")),
    _sequential,
    _compiled,
    _dicts,
    _Own,
    _Stepping,
    lambda: _sequential(L.BatchNormalization()),
    lambda: _sequential(L.Lambda(lambda x: x * 2.0)),
    lambda: _sequential(L.Dropout(0.5), L.GaussianNoise(0.1)),
    lambda: _sequential(L.Flatten(), shape=(0,)),
    lambda: tf.keras.Sequential([L.Dense(1)]),  # not built
    lambda: tf.keras.Sequential(),
    lambda: _sequential(L.Embedding(5, 2), L.LSTM(2), shape=(4,)),
    lambda: _sequential(L.Dense(2, trainable=False)),
    lambda: tf.keras.Model(x := L.Input((2,)), x),  # no weights
    lambda: tf.keras.Sequential,
    lambda: "x",
    lambda: None,
    lambda: {"layers": []},
)
_ODD = (
    None, True, False, 0, -1, 1, 1.5, 64, 2**31, 2**63, 2**64, 10**400, -(10**30), float("nan"), float("inf"), "", "x",
    "\ud800", "\x00", "a" * 5_000, b"x", [], {}, [1], {"a": 1}, object, len, np.int64(3), np.array([1.0, 2.0]),
)  # fmt: skip
_OPTIMIZERS: tuple[Callable[[], Any], ...] = (
    lambda: "sgd",
    lambda: "Adam",
    lambda: "nope",
    lambda: tf.keras.optimizers.SGD(0.1, momentum=0.9),
    lambda: tf.keras.optimizers.SGD(float("nan")),
    lambda: tf.keras.optimizers.SGD(1e30),
    lambda: tf.keras.optimizers.SGD(-1.0),
    lambda: tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)),
    lambda: tf.keras.optimizers.Adam(lambda: 0.1),
    lambda: tf.keras.optimizers.legacy.Adam(0.1),
    lambda: tf.keras.optimizers.legacy.Ftrl(0.1),
    lambda: tf.keras.optimizers.Adam,
    lambda: tf.keras.optimizers.SGD(use_ema=True),
    lambda: tf.compat.v1.train.GradientDescentOptimizer(0.1),
    lambda: {"class_name": "SGD", "config": {"learning_rate": 0.1}},
    lambda: {"class_name": "SGD", "config": {"learning_rate": "x"}},
    lambda: {"class_name": "SGD", "config": {"nope": 1}},
    lambda: {"class_name": "Nope"},
    lambda: {},
)
_LOSSES: tuple[Callable[[], Any], ...] = (
    lambda: "mse",
    lambda: "nope",
    lambda: tf.keras.losses.MeanSquaredError(),
    lambda: tf.keras.losses.MeanSquaredError(reduction="none"),
    lambda: tf.keras.losses.BinaryCrossentropy(from_logits=True),
    lambda: tf.keras.losses.MeanSquaredError,
    lambda: lambda y, p: tf.reduce_sum((y - p) ** 2, -1),
    lambda: {"p": "mse", "q": "mse"},
    lambda: {"p": "mse", "nope": "mse"},
    lambda: ["mse", "mse"],
    lambda: {"class_name": "MeanSquaredError", "config": {}},
    lambda: {"class_name": "Nope", "config": {}},
)
_ARGUMENTS = ("loss_weights", "seed", "virtual_batch_size", "memory_cap", "binding", "history", "remember", "data_name")
_STATES = ("/proc/nothing/x", "/dev/null/x", "/dev/null", "\x00", "x" * 5_000, 5, b"x", "", ["x"])


def keras_models(folder: Path, watch: Watch) -> Callable[[Random], Case]:
    """Models, optimizers, losses and the other arguments; a model that is taken says so."""
    plan = PrivacyPlan.calibrated(
        units=100, expected_batch_size=10, steps=5, delta=1e-5, clipping_norm=1.0, noise_multiplier=1.0
    )
    drawn = 0

    def draw(rng: Random) -> Case:
        nonlocal drawn
        drawn += 1
        if drawn % _CLEARED == 0:
            tf.keras.backend.clear_session()
        model, optimizer, loss = rng.choice(_MODELS), rng.choice(_OPTIMIZERS), rng.choice(_LOSSES)
        parts = [rng.random() < 0.4 for _ in range(3)]
        more: dict[str, Any] = {name: rng.choice(_ODD) for name in _ARGUMENTS if rng.random() < 0.07}
        if rng.random() < 0.05:
            more["history"] = PrivacyHistory(origin="public")
        if rng.random() < 0.05:
            more["state_dir"] = rng.choice(_STATES)
        odd = [rng.choice(_ODD) for _ in range(2)]
        asked = plan if rng.random() < 0.95 else rng.choice(_ODD)

        def read() -> None:
            make_private(
                model() if parts[0] else _MODELS[0](),
                asked,
                optimizer=odd[0] if rng.random() < 0.05 else optimizer() if parts[1] else "sgd",
                loss=odd[1] if rng.random() < 0.05 else loss() if parts[2] else "mse",
                **more,
            )

        chosen = [_MODELS.index(model), _OPTIMIZERS.index(optimizer), _LOSSES.index(loss), parts, odd, asked, more]
        return Case(content=repr(chosen).encode("utf-8", "backslashreplace"), read=read)

    return draw
