"""What a fixed seed draws belongs to a place; a row that leaves moves the others to other places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.errors import BadInputError
from tests.dp.zoo.harness import clipped_sum_of, clipper_of, distance, kind_of

ROWS, WIDTH = 12, 6
L = tf.keras.layers


def model_of(call: Any) -> Any:
    return tf.keras.Sequential([L.Input([WIDTH]), L.Lambda(call, name="suspect"), L.Dense(1)], name="net")


def data() -> tuple[Any, Any]:
    generator = np.random.default_rng(3)
    return generator.normal(size=(ROWS, WIDTH)).astype(np.float32), generator.normal(size=(ROWS, 1)).astype(np.float32)


@pytest.mark.parametrize("size", [1.0, 1e-6])
def test_draws_by_place_are_refused_or_made_for_each_row_alone(size: float) -> None:
    model = model_of(lambda x: x * (1 + size * tf.random.stateless_normal(tf.shape(x), [1, 2])))
    x, y = data()
    if size == 1:
        with pytest.raises(BadInputError, match=r"op 'net/suspect/.*StatelessRandomNormalV2"):
            clipper_of(model, "mean_squared_error", x, y)
        return
    clipper = clipper_of(model, "mean_squared_error", x, y)
    assert kind_of(clipper) == "not_proven"
    run = clipped_sum_of(model, "mean_squared_error", x, y, clipper=clipper)
    assert distance(run(x[1:], y[1:]), run(x, y)) <= 1 + 1e-6


def test_the_masks_of_a_step_are_proven_to_go_by_its_seed() -> None:
    model = tf.keras.Sequential([L.Input([WIDTH]), L.Dropout(0.5, seed=1), L.GaussianNoise(0.1), L.Dense(1)])
    assert kind_of(clipper_of(model, "mean_squared_error", *data())) == "proven"


@pytest.mark.parametrize("seeded", ["op", "global"])
def test_a_stream_of_draws_with_a_fixed_seed_is_refused(seeded: str) -> None:
    if seeded == "global":
        tf.random.set_seed(7)
    try:
        model = model_of(lambda x: x + tf.random.normal(tf.shape(x), seed=5 if seeded == "op" else None))
        with pytest.raises(BadInputError, match=r"layer 'suspect'.*fixed seed"):
            clipper_of(model, "mean_squared_error", *data())
    finally:
        tf.random.set_seed(None)
