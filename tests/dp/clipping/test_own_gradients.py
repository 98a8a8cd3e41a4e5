"""A gradient that somebody wrote for a layer's weights may do anything: it runs on one example at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.dp.zoo.harness import clipped_sum_of, clipper_of, distance

ROWS, WIDTH = 24, 4
RARE = 7.123456  # no check on made-up values draws it
L = tf.keras.layers


def weight_gradient(a: Any, upstream: Any) -> Any:
    """A thousand times larger for all rows where one holds the rare value."""
    found = tf.reduce_sum(tf.cast(tf.abs(a - RARE) < 1e-4, tf.float32))
    return tf.reduce_sum(upstream * a, 0) * (1.0 + 1000.0 * found)


@tf.RegisterGradient("RareMul")
def _rare(op: Any, upstream: Any) -> Any:
    a, w = op.inputs
    return upstream * w, weight_gradient(a, upstream)


@tf.custom_gradient
def by_decorator(a: Any, w: Any) -> Any:
    return a * w, lambda upstream: (upstream * w, weight_gradient(a, upstream))


@tf.function
def by_name(a: Any, w: Any) -> Any:
    with tf.compat.v1.get_default_graph().gradient_override_map({"Mul": "RareMul"}):
        return tf.multiply(a, w)


@tf.function
def by_name_within(a: Any, w: Any) -> Any:
    return by_name(a, w)


class Scale(L.Layer):
    def __init__(self, multiply: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.multiply = multiply

    def build(self, shape: Any) -> None:
        self.w = self.add_weight(name="w", shape=[shape[-1]], initializer="ones")

    def call(self, x: Any) -> Any:
        return self.multiply(x, tf.convert_to_tensor(self.w))


@pytest.mark.slow_but("by_decorator")
@pytest.mark.parametrize("multiply", [by_decorator, by_name, by_name_within])
def test_one_row_moves_the_sum_by_its_own_gradient(multiply: Any) -> None:
    model = tf.keras.Sequential([L.Input([WIDTH]), Scale(multiply), L.Dense(1, kernel_initializer="ones")])
    x = np.random.default_rng(0).uniform(-1, 1, (ROWS, WIDTH)).astype(np.float32)
    y = np.ones((ROWS, 1), np.float32)
    run = clipped_sum_of(model, "mse", x, y, clipper=clipper_of(model, "mse", x, y))
    other = x.copy()
    other[0] = RARE
    assert distance(run(other, y), run(x, y)) <= 2 + 1e-4
    assert distance(run(x[1:], y[1:]), run(x, y)) <= 1 + 1e-4
    assert distance(run(other[1:], y[1:]), run(other, y)) <= 1 + 1e-4
