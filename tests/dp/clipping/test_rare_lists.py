"""Mixing by list elements that nobody wrote, by what stands behind an op without a rule, and by joins of two kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp import PrivacyPlan, make_private
from privacy_pipeline.errors import BadInputError
from tests.dp.clipping.test_rare_values import WIDTH, data, dense, flipped, if_wrong, is_rare, require_bounded
from tests.dp.zoo.harness import clipper_of, kind_of

L = tf.keras.layers
R = tf.raw_ops


def hit(x: Any) -> Any:
    return tf.cast(is_rare(x), tf.float32)


def reserved(length: Any, dtype: Any = tf.float32) -> Any:
    return R.TensorListReserve(element_shape=tf.constant(-1), num_elements=length, element_dtype=dtype)


def written(held: Any, place: int, item: Any) -> Any:
    return R.TensorListSetItem(input_handle=held, index=place, item=item)


def read(held: Any, place: int, shape: Any, dtype: Any = tf.float32) -> Any:
    return R.TensorListGetItem(input_handle=held, index=place, element_shape=shape, element_dtype=dtype)


def never() -> Any:
    """False, by an arithmetic that the proof does not follow."""
    return tf.greater(tf.constant(1.0), tf.sqrt(tf.constant(4.0)))


def turned(x: Any, axis: Any) -> Any:
    return x * (1 - 2 * tf.reduce_max(hit(x), axis, keepdims=True))


def total(x: Any) -> Any:
    return tf.cast(tf.reduce_sum(tf.stop_gradient(x)), tf.int32)


def many(x: Any) -> Any:
    """1, or 2 where some row is rare: a size that a set_shape says to be 4, behind an op without a rule."""
    found = tf.cast(tf.reduce_max(hit(x), 1), tf.int32)
    rows = tf.shape(found)[0]
    segments = tf.cast(tf.range(2 * rows) >= rows, tf.int32)
    made = R.Fill(dims=1 + R.SegmentMax(data=tf.concat([found, found], 0), segment_ids=segments), value=1.0)
    made.set_shape([None, 4])
    return R.Shape(input=made)[1]


def popped_and_stacked(x: Any) -> Any:
    held = written(written(reserved(2), 0, x), 1, x)
    shorter = R.TensorListPopBack(input_handle=held, element_shape=tf.shape(x), element_dtype=tf.float32)[0]
    made = R.TensorListStack(input_handle=shorter, element_shape=tf.constant([-1, WIDTH]), element_dtype=tf.float32)
    return if_wrong(tf.equal(R.Shape(input=made)[0], 2), x)


def size_of_what_nobody_wrote(x: Any) -> Any:
    made = read(written(reserved(2), 0, x), 1, tf.constant([1, WIDTH]))
    return if_wrong(tf.equal(R.Shape(input=made)[0], tf.shape(x)[0]), x)


def rows_of_what_nobody_wrote(x: Any) -> Any:
    rows = R.Shape(input=read(written(reserved(2), 0, x), 1, tf.constant([1, WIDTH])))[0]
    return x * (1 - 2 * tf.reduce_max(tf.reshape(hit(x), [rows, -1]), 1, keepdims=True))


def places_that_nobody_wrote(x: Any) -> Any:
    """By the public interface alone."""
    places = tf.TensorArray(tf.int32, size=2, clear_after_read=False, infer_shape=False)
    places = places.write(1, tf.range(tf.shape(x)[0]))
    return x * (1 - 2 * tf.gather(hit(x), tf.reshape(places.read(0), [-1])))


def places_between_which_nobody_wrote(x: Any) -> Any:
    places = tf.TensorArray(tf.int32, size=2, element_shape=tf.TensorShape([None]), infer_shape=False)
    return x * (1 - 2 * tf.gather(hit(x), places.write(1, tf.range(tf.shape(x)[0])).stack()[0]))


def number_behind_what_nobody_wrote(x: Any) -> Any:
    held = R.TensorListPushBack(input_handle=reserved(1, tf.int32), tensor=tf.constant(1))
    return turned(x, read(held, 0, tf.constant([], tf.int32), tf.int32))


def list_that_no_round_fills(x: Any) -> Any:
    rounds = tf.cast(tf.math.floor(tf.sqrt(tf.constant(0.5))), tf.int32)
    held = tf.while_loop(lambda i, _: i < rounds, lambda i, h: (i + 1, written(h, 0, x)), (0, reserved(1)))[1]
    made = R.TensorListStack(input_handle=held, element_shape=tf.constant([1, WIDTH]), element_dtype=tf.float32)
    return if_wrong(tf.equal(R.Shape(input=made)[1], tf.shape(x)[0]), x)


def rank_of_a_list(x: Any) -> Any:
    held = R.TensorListFromTensor(tensor=tf.ones([3, 4]), element_shape=tf.constant([4]))
    return if_wrong(tf.equal(R.Rank(input=held), 1), x)


def size_of_a_list(x: Any) -> Any:
    held = R.TensorListFromTensor(tensor=tf.ones([3, 4]), element_shape=tf.constant([4]))
    return if_wrong(tf.equal(R.Size(input=held), 4), x)


def rank_of_lists_in_a_row(x: Any) -> Any:
    held = written(reserved(1), 0, x)
    return if_wrong(tf.equal(R.Rank(input=R.Pack(values=[held, held, held], axis=0)), 3), x)


def least_number_of_a_loop(x: Any) -> Any:
    number = total(x)
    given = (tf.constant(0), tf.maximum(number, 1))
    found = tf.while_loop(lambda i, _: i < 1, lambda i, _: (i + 1, tf.minimum(number, 0)), given)[1]
    return turned(x, tf.maximum(tf.minimum(found, 1), 0))


def shape_of_either(x: Any) -> Any:
    truth = tf.reduce_sum(tf.stop_gradient(x)) > 0
    either = tf.cond(never(), lambda: truth, lambda: tf.constant([True, True]))
    return turned(x, 1 - R.Rank(input=R.Equal(x=either, y=either)))


def shape_that_a_loop_changes(x: Any) -> Any:
    number, any_shape = total(x), (tf.TensorShape([]), tf.TensorShape(None))
    body = lambda i, _: (i + 1, tf.stack([number, number]))  # noqa: E731
    found = tf.while_loop(lambda i, _: i < 1, body, (tf.constant(0), number), shape_invariants=any_shape)[1]
    return turned(x, 1 - R.Rank(input=R.Minimum(x=R.Maximum(x=found, y=1), y=1)))


def as_many_as_it_is_asked_for(x: Any) -> Any:
    often = tf.cast(tf.math.ceil(tf.sqrt(tf.constant(3.5))), tf.int32)
    made = tf.slice(x, [0, 0], tf.stack([-1, often]))
    return if_wrong(tf.equal(R.Shape(input=made)[1], WIDTH), x)


def rounds_behind_an_op_without_a_rule(x: Any) -> Any:
    return x * tf.while_loop(lambda i, _: i < many(x), lambda i, s: (i + 1, -s), (tf.constant(0), tf.constant(1.0)))[1]


def length_behind_an_op_without_a_rule(x: Any) -> Any:
    held = tf.cond(never(), lambda: written(reserved(1), 0, x), lambda: reserved(many(x)))
    return x * tf.cast(3 - 2 * R.TensorListLength(input_handle=held), tf.float32)


MIXING = {
    function.__name__: function
    for function in (
        *(popped_and_stacked, size_of_what_nobody_wrote, rows_of_what_nobody_wrote, places_that_nobody_wrote),
        *(places_between_which_nobody_wrote, number_behind_what_nobody_wrote, list_that_no_round_fills),
        as_many_as_it_is_asked_for,
        *(rank_of_a_list, size_of_a_list, rank_of_lists_in_a_row, least_number_of_a_loop, shape_of_either),
        *(shape_that_a_loop_changes, rounds_behind_an_op_without_a_rule, length_behind_an_op_without_a_rule),
    )
}


@pytest.mark.slow_but("shape_of_either", "least_number_of_a_loop")
@pytest.mark.parametrize("name", MIXING)
def test_one_row_moves_the_sum_by_what_it_may(name: str) -> None:
    require_bounded(tf.keras.Sequential([L.Input([WIDTH]), L.Lambda(MIXING[name]), dense()]), *data())


class Finds(L.Layer):
    """Leaves a number of the batch where another layer takes it."""

    found: Any = None

    def call(self, x: Any) -> Any:
        self.found = tf.cast(many(x), tf.float32)
        return x


class Takes(L.Layer):
    """Multiplies the gradient of its weight by what another layer found."""

    def __init__(self, other: Any) -> None:
        super().__init__()
        self.held = [lambda: other.found]

    def build(self, shape: Any) -> None:
        self.w = self.add_weight(name="w", shape=[WIDTH], initializer="ones")

    def call(self, x: Any, training: Any = None) -> Any:
        factor = 3 - 2 * self.held[0]()

        @tf.custom_gradient
        def scaled(a: Any, w: Any) -> Any:
            return a * w, lambda upstream: (upstream * w, tf.reduce_sum(upstream * a, 0) * factor)

        return scaled(x, self.w)


@pytest.mark.filterwarnings("ignore::privacy_pipeline.dp.clipping.intercept.FallbackWarning")
def test_a_gradient_that_takes_what_another_layer_found() -> None:
    given, finds = L.Input([WIDTH]), Finds()
    last = L.Dense(1, use_bias=False, kernel_initializer="ones", trainable=False)
    model = tf.keras.Model(given, last(Takes(finds)(finds(given))))
    with pytest.raises(BadInputError, match="past its arguments"):
        clipper_of(model, "mse", *data())


def positions() -> Any:
    class Positions(L.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.table = L.Embedding(WIDTH, 3)

        def call(self, x: Any) -> Any:
            return x[..., None] + self.table(tf.range(0, tf.shape(x)[-1]))

    return Positions()


def prototypes() -> Any:
    class Prototypes(L.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.made = L.Dense(WIDTH)

        def call(self, x: Any) -> Any:
            return x * self.made(tf.ones([1, 2]))

    return Prototypes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::privacy_pipeline.dp.clipping.intercept.FallbackWarning")
@pytest.mark.parametrize("layer", [positions, prototypes])
def test_a_layer_that_is_called_on_no_batch_trains_with_its_model(layer: Any) -> None:
    model = tf.keras.Sequential([L.Input([WIDTH]), layer(), L.Flatten(), L.Dense(1)])
    x, y = data()
    require_bounded(model, x, y)
    plan = PrivacyPlan.calibrated(
        units=len(x), expected_batch_size=12, steps=1, noise_multiplier=1.0, delta=1e-5, clipping_norm=1.0
    )
    private = make_private(model, plan, optimizer="sgd", loss="mse")
    assert private.fit(x, y).steps == 1
    assert "called on something that is not a batch" in str(private.verdict)


def repeated(x: Any) -> Any:
    often = tf.cast(tf.math.ceil(tf.sqrt(tf.constant(3.5))), tf.int32)
    return tf.reduce_sum(tf.tile(x[:, None], [1, often, 1]), 1)


def spread(x: Any) -> Any:
    often = tf.cast(tf.math.ceil(tf.sqrt(tf.constant(3.5))), tf.int32)
    return tf.reduce_sum(tf.broadcast_to(x[:, None], [tf.shape(x)[0], often, WIDTH]), 1)


@pytest.mark.slow_but("repeated")
@pytest.mark.filterwarnings("ignore::privacy_pipeline.dp.clipping.intercept.FallbackWarning")
@pytest.mark.parametrize("function", [repeated, spread])
def test_a_public_number_that_is_not_known_is_not_taken_for_that_of_rows(function: Any) -> None:
    x, y = data()
    model = tf.keras.Sequential([L.Input([WIDTH]), L.Lambda(function), dense()])
    assert kind_of(clipper_of(model, "mse", x, y)) in ("proven", "not_proven")


@pytest.mark.slow
def test_the_cases_mix() -> None:
    """Else they would show nothing."""
    x = data()[0]
    other = x.copy()
    other[0] = 7.123456
    for name in sorted(set(MIXING) - {"length_behind_an_op_without_a_rule"}):
        before, after = (tf.function(MIXING[name])(tf.constant(values)).numpy() for values in (x, other))
        assert np.abs(after[1:] - before[1:]).max() > 0.5, name
    assert np.abs(flipped(tf.constant(other)).numpy()[1:] - x[1:]).max() > 0.5
