"""Mixing that no probe draws: it shows for a rare value, for many rows or for a single one. The proof finds it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp import PrivacyPlan, make_private
from privacy_pipeline.errors import BadInputError
from tests.dp.zoo.harness import clipped_sum_of, clipper_of, distance

ROWS, WIDTH = 24, 4
RARE = 7.123456
ROUNDING = 1e-4
L = tf.keras.layers
R = tf.raw_ops
SCALAR = tf.constant([], tf.int32)
Function = Callable[[Any], Any]


def is_rare(x: Any) -> Any:
    return tf.abs(x - RARE) < 1e-4


def flipped(x: Any) -> Any:
    """All rows change their sign where one of them holds the rare value."""
    return x * tf.where(tf.reduce_any(is_rare(x)), -1.0, 1.0)


def flipped_by_row(x: Any) -> Any:
    return x * tf.where(tf.reduce_any(is_rare(x), 1, keepdims=True), -1.0, 1.0)


def if_wrong(wrong: Any, x: Any, otherwise: Function = flipped) -> Any:
    """As it is where a constant is what it is not."""
    return tf.cond(wrong, lambda: tf.identity(x), lambda: otherwise(x))


def rows_chosen_by_a_vector(x: Any) -> Any:
    a, b = tf.constant([[1, 2], [3, 4]]), tf.constant([[5, 6], [7, 8]])
    chosen = R.Select(condition=tf.constant([True, False]), x=a, y=b)
    return if_wrong(tf.equal(chosen[0, 1], 6), x)


def stitched_vectors(x: Any) -> Any:
    stitched = R.DynamicStitch(indices=[tf.constant([0, 1])], data=[tf.constant([[5], [6]])])
    return if_wrong(tf.equal(R.Rank(input=stitched), 1), x)


def stitched_with_a_gap(x: Any) -> Any:
    stitched = R.DynamicStitch(indices=[tf.constant([0, 2])], data=[tf.constant([5, 6])])
    return if_wrong(tf.equal(stitched[0], 6), x)


def spread_alike(x: Any) -> Any:
    spread = R.BroadcastGradientArgs(s0=tf.constant([1, 4]), s1=tf.constant([1, 4]))
    return if_wrong(tf.equal(R.Size(input=spread[1]), 1), x)


def truth_of_shapes_that_do_not_fit(x: Any) -> Any:
    equal = R.Equal(x=x, y=tf.constant([1.0, 2.0, 3.0]), incompatible_shape_error=False)
    return if_wrong(tf.equal(R.Rank(input=equal), 2), x)


@tf.function(jit_compile=True)
def _taken(place: Any) -> Any:
    return tf.gather(tf.constant([5, 6, 7]), place)


def place_out_of_range(x: Any) -> Any:
    return if_wrong(tf.equal(_taken(tf.constant(-1)), 7), x)


def _pushed(value: Any, shape: Any = SCALAR) -> Any:
    held = R.EmptyTensorList(element_shape=shape, max_num_elements=-1, element_dtype=tf.int32)
    return R.TensorListPushBack(input_handle=held, tensor=value)


def list_made_longer(x: Any) -> Any:
    held = R.TensorListResize(input_handle=_pushed(tf.constant(5)), size=2)
    item = R.TensorListGetItem(input_handle=held, index=1, element_shape=SCALAR, element_dtype=tf.int32)
    return if_wrong(tf.equal(item, 5), x)


def list_of_zeros(x: Any) -> Any:
    held = R.ZerosLike(x=_pushed(tf.constant(5)))
    item = R.TensorListPopBack(input_handle=held, element_shape=SCALAR, element_dtype=tf.int32)[1]
    return if_wrong(tf.equal(item, 5), x)


def places_in_a_list_of_zeros(x: Any) -> Any:
    rows = tf.shape(x)[:1]
    held = R.ZerosLike(x=_pushed(tf.range(rows[0]), tf.constant(-1)))
    places = R.TensorListPopBack(input_handle=held, element_shape=rows, element_dtype=tf.int32)[1]
    places.set_shape([None])
    return x * (1 - 2 * tf.gather(tf.cast(is_rare(x), tf.float32), places))


def bytes_as_a_number(x: Any) -> Any:
    found = R.PlaceholderWithDefault(input=tf.cast(is_rare(x), tf.uint8), shape=tf.TensorShape(None))
    most = tf.expand_dims(R.Max(input=R.Bitcast(input=found, type=tf.int32), axis=-1), -1)
    made = x * (1.0 - 2.0 * tf.cast(most > 0, tf.float32))
    made.set_shape(x.shape)
    return made


class ClaimsASize(L.Layer):
    """Says of a variable of any shape what is not so."""

    def build(self, shape: Any) -> None:
        self.held = tf.Variable(np.zeros([8, 4], np.float32), trainable=False, shape=tf.TensorShape(None))

    def call(self, x: Any) -> Any:
        claimed = tf.identity(self.held)
        claimed.set_shape([1, 4])
        return if_wrong(tf.equal(R.Shape(input=claimed)[0], 1), x)


class ClaimsARank(L.Layer):
    def build(self, shape: Any) -> None:
        self.held = tf.Variable(np.arange(2, dtype=np.float32), trainable=False, shape=tf.TensorShape(None))

    def call(self, x: Any) -> Any:
        found = tf.cast(tf.reduce_any(is_rare(x), 1, keepdims=True), tf.int32)
        taken = tf.gather_nd(tf.identity(self.held), found)
        taken.set_shape([None, 4])
        return x * (1.0 - 2.0 * tf.reduce_max(taken, -1, keepdims=True))


class Four(L.Layer):
    """Has a four that no rule reads, to cut by."""

    def build(self, shape: Any) -> None:
        self.four = self.add_weight(
            name="four", shape=[], dtype=tf.int32, initializer=tf.constant_initializer(4), trainable=False
        )


class ClaimsACut(Four):
    def call(self, x: Any) -> Any:
        cut = tf.ones([8, 4])[: self.four]
        cut.set_shape([1, 4])
        return if_wrong(tf.equal(R.Shape(input=cut)[0], 1), x)


class ClaimsACutOfRows(Four):
    def call(self, x: Any) -> Any:
        cut = tf.concat([x, x], 1)[:, : self.four]
        cut.set_shape([None, 2])
        return tf.reshape(cut, [-1, 2])[: tf.shape(x)[0]]


def apart(function: Any, *signature: Any) -> Any:
    """A function that TensorFlow leaves a function of its own, called."""
    more = {"input_signature": signature} if signature else {}
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True}, **more)


class TracedBefore(Four):
    """Its function was traced where nobody looked."""

    def build(self, shape: Any) -> None:
        super().build(shape)

        @tf.function(input_signature=[], autograph=False)
        def cut() -> Any:
            found = tf.ones([8, 4])[: self.four]
            found.set_shape([1, 4])
            return tf.identity(found)

        cut.get_concrete_function()
        self.cut = cut

    def call(self, x: Any) -> Any:
        return if_wrong(tf.equal(R.Shape(input=self.cut())[0], 1), x)


class Loaded(L.Layer):
    """Its function comes from a SavedModel."""

    def build(self, shape: Any) -> None:
        module = tf.Module()
        module.four = tf.Variable(4, trainable=False)

        @tf.function(input_signature=[tf.TensorSpec([None, WIDTH])], autograph=False)
        def flip(x: Any) -> Any:
            found = tf.ones([8, 4])[: module.four]
            found.set_shape([1, 4])
            return if_wrong(tf.equal(R.Shape(input=tf.identity(found))[0], 1), x)

        module.flip = flip
        with tempfile.TemporaryDirectory() as folder:
            tf.saved_model.save(module, folder)
            self.module = tf.saved_model.load(folder)

    def call(self, x: Any) -> Any:
        return self.module.flip(x)


class ClaimsADefault(Four):
    def call(self, x: Any) -> Any:
        def cut() -> Any:
            found = tf.ones([8, 4])[: self.four]
            return tf.identity(R.PlaceholderWithDefault(input=found, shape=tf.TensorShape([1, 4])))

        return if_wrong(tf.equal(R.Shape(input=apart(cut)())[0], 1), x)


class ClaimsAnItem(Four):
    def call(self, x: Any) -> Any:
        def item() -> Any:
            shape, kind = tf.constant([-1, 4]), tf.float32
            held = R.TensorListReserve(element_shape=shape, num_elements=tf.constant(1), element_dtype=kind)
            held = R.TensorListSetItem(input_handle=held, index=tf.constant(0), item=tf.ones([8, 4])[: self.four])
            said = tf.constant([1, 4])
            return tf.identity(
                R.TensorListGetItem(input_handle=held, index=tf.constant(0), element_shape=said, element_dtype=kind)
            )

        return if_wrong(tf.equal(R.Shape(input=apart(item)())[0], 1), x)


class ClaimsARound(Four):
    def call(self, x: Any) -> Any:
        def rounds() -> Any:
            of_both = [tf.TensorSpec([], tf.int32), tf.TensorSpec([None, 4])]
            found = R.StatelessWhile(
                input=[tf.constant(0), tf.ones([8, 4])[: self.four]],
                cond=tf.function(lambda i, held: i < 1, input_signature=of_both).get_concrete_function(),
                body=tf.function(lambda i, held: (i + 1, held), input_signature=of_both).get_concrete_function(),
                output_shapes=[tf.TensorShape([]), tf.TensorShape([1, 4])],
            )
            return tf.identity(found[1])

        return if_wrong(tf.equal(R.Shape(input=apart(rounds)())[0], 1), x)


class StandIn(L.Layer):
    """Grappler puts the second function in the place of the first."""

    def call(self, x: Any) -> Any:
        def named(function: Function, device: str) -> Any:
            attributes = {"api_implements": "mine", "api_preferred_device": device}
            signature = [tf.TensorSpec([None, WIDTH])]
            return tf.function(function, autograph=False, experimental_attributes=attributes, input_signature=signature)

        made = named(lambda x: x * 1.0, "GPU")(x)
        named(flipped, "CPU").get_concrete_function().add_to_graph(tf.compat.v1.get_default_graph())
        made.set_shape(x.shape)
        return made


MIXING: dict[str, Any] = {
    function.__name__: function
    for function in (
        *(rows_chosen_by_a_vector, stitched_vectors, stitched_with_a_gap, spread_alike, place_out_of_range),
        *(truth_of_shapes_that_do_not_fit, list_made_longer, list_of_zeros, places_in_a_list_of_zeros),
        bytes_as_a_number,
    )
} | {
    "claims_a_size": ClaimsASize,
    "claims_a_rank": ClaimsARank,
    "claims_a_cut": ClaimsACut,
    "claims_a_cut_of_rows": ClaimsACutOfRows,
    "stand_in": StandIn,
}


def data(rows: int = ROWS) -> tuple[Any, Any]:
    x = np.random.default_rng(0).uniform(0.5, 1, (rows, WIDTH)).astype(np.float32)
    return x, np.ones((rows, 1), np.float32)


def dense(**options: Any) -> Any:
    return L.Dense(1, use_bias=False, kernel_initializer="zeros", **options)


def require_bounded(model: Any, x: Any, y: Any, *, loss: Any = "mse", first: Any = RARE) -> None:
    """Refused, or one row moves the sum by what it may."""
    try:
        clipper = clipper_of(model, loss, x, y)
    except BadInputError:
        return
    run = clipped_sum_of(model, loss, x, y, clipper=clipper)
    other = x.copy()
    other[0] = first
    assert distance(run(other, y), run(x, y)) <= 2 + ROUNDING
    for one in (x, other):
        assert distance(run(one[1:], y[1:]), run(one, y)) <= 1 + ROUNDING


class Weighted(L.Layer):
    """Has a weight for each column."""

    first = "zeros"

    def build(self, shape: Any) -> None:
        self.w = self.add_weight(name="w", shape=[shape[-1]], initializer=self.first)


@pytest.mark.filterwarnings("ignore::privacy_pipeline.dp.clipping.intercept.FallbackWarning")
class TestBounded:
    @pytest.mark.slow_but("rows_chosen_by_a_vector", "spread_alike", "place_out_of_range", "list_of_zeros")
    @pytest.mark.parametrize("name", MIXING)
    def test_a_wrong_constant_or_shape(self, name: str) -> None:
        made = MIXING[name]
        layer = made() if isinstance(made, type) else L.Lambda(made)
        require_bounded(tf.keras.Sequential([L.Input([WIDTH]), layer, dense()]), *data())

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["squeeze", "spread"])
    def test_a_single_row(self, kind: str) -> None:
        def squeezed(x: Any) -> Any:
            return if_wrong(tf.equal(R.Rank(input=R.Squeeze(input=x, axis=[])), 2), x, flipped_by_row)

        def spread(x: Any) -> Any:
            places = R.BroadcastGradientArgs(s0=tf.shape(x), s1=tf.constant([1, WIDTH]))
            return if_wrong(tf.equal(tf.size(places[1]), 1), x, flipped_by_row)

        x, y = data(2)
        x[1] = RARE
        layer = L.Lambda(squeezed if kind == "squeeze" else spread)
        require_bounded(tf.keras.Sequential([L.Input([WIDTH]), layer, dense()]), x, y)

    @pytest.mark.slow
    def test_the_number_of_rows_as_a_label(self) -> None:
        def loss(labels: Any, outputs: Any) -> Any:
            rows = tf.shape(outputs)[0]
            codes = tf.one_hot(tf.fill([rows], tf.cast(rows >= ROWS, tf.int32)), 2)
            return R.SoftmaxCrossEntropyWithLogits(features=outputs, labels=codes).loss

        model = tf.keras.Sequential([L.Input([WIDTH]), L.Dense(2, use_bias=False, kernel_initializer="zeros")])
        require_bounded(model, *data(), loss=loss)

    def test_the_place_of_a_row_by_a_diagonal(self) -> None:
        def by_place(x: Any) -> Any:
            square = R.Einsum(inputs=[tf.ones_like(x[:, :1])], equation="bk->bbk")
            return turned_by_place(x, tf.argmax(square, 1)[:, 0])

        x, y = data()
        x[1::2] *= -1
        require_bounded(tf.keras.Sequential([L.Input([WIDTH]), L.Lambda(by_place), dense()]), x, y)

    @pytest.mark.slow
    def test_a_seed_that_keeps_nothing_of_the_secret(self) -> None:
        class Fixed(L.GaussianNoise):
            def call(self, x: Any, training: Any = None) -> Any:
                if not training:
                    return x
                seed = self._random_generator.make_seed_for_stateless_op()
                if seed is None:
                    return x
                fixed = tf.cast(seed, tf.int32) * 0 + tf.constant([1, 2])
                drawn = tf.random.stateless_uniform(tf.shape(x)[:1], fixed)[:, None]
                return x * tf.where(drawn < 0.5, -1.0, 1.0)

        x, y = data()
        signs = np.where(tf.random.stateless_uniform([ROWS], [1, 2]).numpy() < 0.5, -1, 1)[:, None]
        model = tf.keras.Sequential([L.Input([WIDTH]), Fixed(1.0), dense()])
        require_bounded(model, x * signs.astype(np.float32), y)

    @pytest.mark.slow_but("count")
    @pytest.mark.parametrize("kind", ["place", "count"])
    def test_what_enters_a_loop_over_rows(self, kind: str) -> None:
        class ByPlace(L.Layer):
            def call(self, given: Any) -> Any:
                return turned_by_place(*given)

        class ByCount(L.Layer):
            def call(self, given: Any) -> Any:
                x, rows = given
                return x * tf.where(tf.zeros_like(x, tf.int32) + tf.cast(rows > ROWS - 1, tf.int32) > 0, -1.0, 1.0)

        x, y = data()
        x[1::2] *= -1
        given = L.Input([WIDTH])
        more = L.Lambda(lambda x: tf.range(tf.shape(x)[0]) if kind == "place" else tf.shape(x)[0])(given)
        # The probe leaves rows out only where the model draws nothing.
        made = ByPlace()([L.Dropout(1e-7)(given), more]) if kind == "place" else ByCount()([given, more])
        require_bounded(tf.keras.Model(given, dense()(made)), x, y)

    @pytest.mark.slow_but("activation")
    @pytest.mark.parametrize("kind", ["activation", "weights"])
    def test_a_statistic_that_a_layer_takes_from_elsewhere(self, kind: str) -> None:
        model = Elsewhere(NoRule() if kind == "activation" else OwnGradient())
        model(tf.zeros([2, WIDTH]))
        model.inner.statistic = None
        require_bounded(model, *data())

    @pytest.mark.slow
    def test_a_gradient_with_a_name_like_tensorflows(self) -> None:
        class Scale(Weighted):
            def call(self, x: Any) -> Any:
                return overridden(x, tf.convert_to_tensor(self.w))

        last = L.Dense(1, use_bias=False, kernel_initializer="ones")
        model = tf.keras.Sequential([L.Input([WIDTH]), Scale(), last])
        require_bounded(model, *data())

    def test_a_layer_that_does_something_else_with_one_row(self) -> None:
        class Scale(Weighted):
            def call(self, x: Any) -> Any:
                made = x * self.w
                if x.shape[0] == 1:  # where the norm is taken
                    share = tf.where(is_rare(x), 1e-6, 1.0)
                    made = tf.stop_gradient(made) * (1 - share) + made * share
                return made

        last = L.Dense(1, use_bias=False, kernel_initializer="ones", trainable=False)
        x, y = data()
        require_bounded(tf.keras.Sequential([L.Input([WIDTH]), Scale(), last]), x, 100 * y)

    @pytest.mark.parametrize("whole", [False, True], ids=["layer", "model"])
    def test_a_row_that_is_assigned_where_rows_run_alone(self, whole: bool) -> None:
        layer = Keeping()
        model = tf.keras.Sequential([L.Input([WIDTH]), layer, *([] if whole else [L.Dense(1, use_bias=False)])])
        x, y = data()
        x[:] = RARE
        plan = PrivacyPlan.calibrated(
            units=ROWS, expected_batch_size=12, steps=2, noise_multiplier=1e-3, delta=1e-5, clipping_norm=1e-6
        )
        made = make_private(model, plan, optimizer=tf.keras.optimizers.SGD(1e-6), loss="mse")
        try:
            made.fit(x, y)
        except BadInputError:
            return
        assert np.abs(layer.w.numpy() - 1).max() < 1e-3


def turned_by_place(x: Any, place: Any) -> Any:
    numbers = tf.cast(place, tf.float32)[:, None]
    return x * tf.where((numbers > 11.0) & (tf.math.floormod(numbers, 2.0) > 0.5), -1.0, 1.0)


def without_rule(x: Any) -> Any:
    """Zeros, by an op that no rule covers."""
    found = tf.nn.in_top_k(tf.zeros([tf.shape(x)[0]], tf.int32), tf.stop_gradient(x), 1)
    return 0.0 * tf.cast(found, tf.float32)[:, None]


class NoRule(L.Layer):
    statistic: Any = None

    def call(self, x: Any) -> Any:
        made = x + without_rule(x)
        return made * self.statistic if x.shape[0] == 1 and self.statistic is not None else made


class OwnGradient(Weighted):
    statistic: Any = None

    def call(self, x: Any) -> Any:
        factor = 1.0 if self.statistic is None else self.statistic

        @tf.custom_gradient
        def scaled(a: Any, w: Any) -> Any:
            return a * w, lambda upstream: (upstream * w, factor * tf.reduce_sum(upstream * a, 0))

        return scaled(x, tf.convert_to_tensor(self.w))


class Elsewhere(tf.keras.Model):
    """Hands a layer a statistic of the batch, past its arguments."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.last = inner, L.Dense(1, use_bias=False, kernel_initializer="ones")

    def call(self, x: Any) -> Any:
        self.inner.statistic = tf.where(tf.reduce_any(is_rare(x)), -1.0, 1.0)
        return self.last(self.inner(x))


class Keeping(Weighted):
    first = "ones"

    def call(self, x: Any) -> Any:
        made = x * self.w + without_rule(x)
        if x.shape[0] == 1:
            self.w.assign(x[0])
        return made


@tf.function
def overridden(x: Any, w: Any) -> Any:
    with tf.compat.v1.get_default_graph().gradient_override_map({"Mul": "PartitionedCall-rare"}):
        return tf.multiply(x, w)


@tf.RegisterGradient("PartitionedCall-rare")
def _rare(op: Any, upstream: Any) -> Any:
    a, w = op.inputs
    return upstream * w, tf.reduce_sum(upstream * a, 0) * tf.where(tf.reduce_any(is_rare(a)), -1000.0, 1.0)
