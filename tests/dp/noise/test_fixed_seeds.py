"""What a fixed seed draws belongs to a place; a row that leaves moves the others to other places."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from privacy_pipeline.dp.noise.masks import keyed_masks, unkeyed_randomness
from privacy_pipeline.errors import BadInputError
from tests.dp.zoo.harness import clipped_sum_of, clipper_of, distance, kind_of

ROWS, WIDTH = 12, 6
L = tf.keras.layers


def model_of(call: Any) -> Any:
    return tf.keras.Sequential([L.Input([WIDTH]), L.Lambda(call, name="suspect"), L.Dense(1)], name="net")


def data() -> tuple[Any, Any]:
    generator = np.random.default_rng(3)
    return generator.normal(size=(ROWS, WIDTH)).astype(np.float32), generator.normal(size=(ROWS, 1)).astype(np.float32)


@pytest.mark.slow_but("1.0")
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


DRAWN: dict[str, Any] = {
    "normal": lambda shape, seed: tf.random.normal(shape, seed=seed),
    "truncated normal": lambda shape, seed: tf.random.truncated_normal(shape, seed=seed),
    "uniform": lambda shape, seed: tf.random.uniform(shape, seed=seed),
    "whole numbers": lambda shape, seed: tf.cast(tf.random.uniform(shape, 2, 9, tf.int32, seed), tf.float32),
    "Keras": lambda shape, seed: tf.keras.backend.random_normal(shape, seed=seed),
}


@pytest.fixture
def global_seed() -> Iterator[None]:
    tf.random.set_seed(7)
    yield
    tf.random.set_seed(None)


@pytest.mark.slow_but("truncated normal-None")
@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("drawn", DRAWN)
def test_the_key_of_a_step_draws_whatever_seed_the_code_gives(drawn: str, seed: int | None, global_seed: None) -> None:
    """As in the sampling layer of a variational autoencoder, which draws in inference mode too."""
    model = model_of(lambda x: x + DRAWN[drawn](tf.shape(x), seed))
    x, y = data()
    clipper = clipper_of(model, "mean_squared_error", x, y)
    assert kind_of(clipper) == "proven"
    run = tf.function(lambda key: _sums(model, clipper, x, y, key))
    one, again, other = (run(tf.constant(key, tf.int64)) for key in ([1, 2], [1, 2], [1, 3]))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3
    assert unkeyed_randomness(run.get_concrete_function(tf.TensorSpec([2], tf.int64)).graph) == []


class Centred(tf.keras.layers.Layer):  # type: ignore[misc]
    """Draws in both modes, and mixes rows where it is served."""

    def call(self, x: Any, training: bool | None = None) -> Any:
        moved = x + tf.random.normal(tf.shape(x))
        return moved if training else moved - tf.reduce_mean(x, 0)


def test_a_model_that_draws_and_mixes_where_it_is_served_is_refused(no_seed: None) -> None:
    model = tf.keras.Sequential([L.Input([WIDTH]), Centred(), L.Dense(1)])
    with pytest.raises(BadInputError, match="the loss of an example changes with the other examples"):
        clipper_of(model, "mean_squared_error", *data())


@pytest.mark.slow_but("<lambda>1")
@pytest.mark.filterwarnings("ignore::privacy_pipeline.dp.clipping.intercept.FallbackWarning")
@pytest.mark.parametrize("draw", [lambda shape: tf.random.gamma(shape, 2.0), lambda shape: _in_a_loop(shape)])
def test_draws_without_the_key_are_no_mixing_where_the_model_is_served(draw: Any, no_seed: None) -> None:
    clipper = clipper_of(model_of(lambda x: x + draw(tf.shape(x))), "mean_squared_error", *data())
    assert kind_of(clipper) in ("proven", "not_proven")


def _in_a_loop(shape: Any) -> Any:
    return tf.while_loop(lambda i, _: i < 2, lambda i, v: (i + 1, v + tf.random.normal(shape)), (0, tf.zeros(shape)))[1]


def _sums(model: Any, clipper: Any, x: Any, y: Any, key: Any) -> Any:
    with keyed_masks(model, key):
        sums = clipper.clipped(
            tf.constant(x), tf.constant(y), training=True, present=tf.ones([ROWS], tf.bool), scale=1.0
        )[0]
    return tf.concat([tf.reshape(value, [-1]) for value in sums], 0)


def test_draws_are_those_of_their_distribution_and_differ_from_call_to_call(no_seed: None) -> None:
    model = tf.keras.Sequential([L.Input([1]), L.Dense(1)])

    def drawn() -> list[Any]:
        with keyed_masks(model, tf.constant([3, 4], tf.int64)):
            return [one([20_000], 5) for one in (*DRAWN.values(), DRAWN["normal"])]

    normal, truncated, uniform, whole, keras, more = (values.numpy() for values in tf.function(drawn)())
    for values, distribution in (
        (normal, stats.norm()),
        (truncated, stats.truncnorm(-2, 2)),
        (uniform, stats.uniform()),
        (keras, stats.norm()),
    ):
        assert stats.kstest(values, distribution.cdf).pvalue > 1e-6
    assert stats.chisquare(np.bincount(whole.astype(int), minlength=9)[2:]).pvalue > 1e-6
    assert np.abs(np.corrcoef([normal, keras, more]) - np.eye(3)).max() < 0.05
    assert drawn_outside() is not None


def drawn_outside() -> Any:
    """TensorFlow's own functions are back when the block ends."""
    first, second = (tf.random.normal([3]).numpy() for _ in range(2))
    return None if np.array_equal(first, second) else first


def test_each_round_of_a_loop_draws_anew(no_seed: None) -> None:
    model = model_of(lambda x: x)

    def rounds() -> Any:
        with keyed_masks(model, tf.constant([3, 4], tf.int64)):
            return tf.map_fn(lambda _: tf.random.normal([]), tf.zeros([8]))

    assert len(np.unique(tf.function(rounds)().numpy())) == 8


def raw_draw(x: Any) -> Any:
    return x + tf.raw_ops.RandomStandardNormal(shape=tf.shape(x), dtype=tf.float32, seed=5)


def draw_in_a_loop(x: Any) -> Any:
    return tf.while_loop(lambda i, _: i < 2, lambda i, v: (i + 1, v + tf.random.normal(tf.shape(x), seed=5)), (0, x))[1]


@pytest.mark.parametrize("call", [raw_draw, draw_in_a_loop])
def test_a_stream_of_draws_with_a_fixed_seed_is_refused(call: Any) -> None:
    with pytest.raises(BadInputError, match=r"layer 'suspect'.*fixed seed"):
        clipper_of(model_of(call), "mean_squared_error", *data())
