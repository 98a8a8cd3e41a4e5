"""Mixing in training mode alone, and mixing that hides: behind scales, dtypes, sizes, second outputs, seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tests.dp.zoo.kit import WIDTH, Made, Zoo, adds_to, between, hidden, normal, raw, table, targets, through, whole

L = tf.keras.layers
ZOO: Zoo = {}
mixing = adds_to(ZOO)


class Training(L.Layer):
    """A function of the input in training mode, the identity elsewhere, and a trained scale."""

    def __init__(self, function: Any, **more: Any) -> None:
        super().__init__(**more)
        self.function = function

    def build(self, shape: Any) -> None:
        self.gamma = self.add_weight("gamma", shape=[shape[-1]])

    def call(self, x: Any, training: bool = False) -> Any:
        return (self.function(x) if training else x) * self.gamma


table(
    ZOO,
    {
        "centred_behind_stop_gradient": lambda x: x - tf.stop_gradient(tf.reduce_mean(x, 0, keepdims=True)),
        "batch_norm_in_training": lambda x: (x - tf.reduce_mean(x, 0)) / (1e-3 + tf.math.reduce_std(x, 0)),
        "first_row_in_training": lambda x: x - x[:1],
        "mixup_in_training": lambda x: 0.7 * x + 0.3 * x[::-1],
        "mixup_behind_stop_gradient": lambda x: 0.7 * x + 0.3 * tf.stop_gradient(tf.roll(x, 1, 0)),
        "cutmix_in_training": lambda x: tf.concat([x[:, :2], tf.roll(x, 1, 0)[:, 2:]], 1),
        "batch_size_in_training": lambda x: x * tf.sqrt(tf.cast(tf.shape(x)[0], x.dtype)),
        "largest_row_in_training": lambda x: x * tf.cast(1 + tf.argmax(tf.reduce_sum(x, 1)), x.dtype),
        "gradient_only_in_training": tf.custom_gradient(lambda x: (tf.identity(x), lambda dy: dy[::-1])),
    },
    lambda function: between(Training(function, name="suspect")),
)


@mixing
def token_mixup_in_training() -> Made:
    """Rows are given some of the next row's tokens; whole numbers have no gradient to tell it by."""

    class Mixup(L.Layer):
        def call(self, ids: Any, training: bool = False) -> Any:
            return tf.where(tf.constant([True, False, True]), ids, tf.roll(ids, 1, 0)) if training else ids

    layers = [L.Input((3,), dtype=tf.int32), Mixup(name="suspect"), L.Embedding(50, 2), L.Flatten(), L.Dense(1)]
    return Made(tf.keras.Sequential(layers), whole(50, 3), targets(), high=50)


@mixing
def centring_of_whole_numbers_in_training() -> Made:
    given = L.Input((1,), dtype=tf.int32)
    values = L.Lambda(lambda v: tf.cast(v, tf.float32))(given)
    centred = Training(lambda x: x - tf.reduce_mean(x, 0, keepdims=True), name="suspect")(values)
    model = tf.keras.Model(given, L.Dense(1, use_bias=False)(centred))
    return Made(model, whole(1000, 1), targets(), high=1000)


@mixing(random=True)
def noise_scaled_by_batch() -> Made:
    """Noise whose size is the batch's deviation; the noise itself is a layer of Keras."""

    class Noise(L.Layer):
        def __init__(self, **more: Any) -> None:
            super().__init__(**more)
            self.noise = L.GaussianNoise(1.0)

        def call(self, x: Any, training: bool = False) -> Any:
            drawn = self.noise(tf.zeros_like(x), training=training)
            return x + drawn * tf.math.reduce_std(x)

    return between(Noise(name="suspect"))


@mixing(random=True)
def dropout_scaled_by_batch() -> Made:
    class Drop(L.Layer):
        def __init__(self, **more: Any) -> None:
            super().__init__(**more)
            self.drop = L.Dropout(0.5)

        def call(self, x: Any, training: bool = False) -> Any:
            kept = self.drop(x, training=training)
            return kept * tf.reduce_sum(tf.abs(x)) / (1e-3 + tf.reduce_sum(tf.abs(kept)))

    return between(Drop(name="suspect"))


@mixing
def noise_seeded_by_batch() -> Made:
    """A stateless draw whose seed is made of all rows."""

    def call(x: Any) -> Any:
        total = tf.cast(tf.clip_by_value(tf.reduce_sum(x) * 100.0, -1e6, 1e6), tf.int32)
        return x + tf.random.stateless_normal([WIDTH], tf.stack([total, 0]))

    return hidden(call)


class TrainedApart(tf.keras.Model):
    """A subclassed model that mixes in training."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = L.Dense(WIDTH), L.Dense(1)

    def call(self, x: Any, training: bool = False) -> Any:
        found = self.first(x)
        return self.last(found + tf.roll(found, 1, 0) if training else found)


@mixing
def subclassed_model_in_training() -> Made:
    model = TrainedApart()
    model.build((None, WIDTH))
    return Made(model, normal(WIDTH), targets())


# --- what hides --------------------------------------------------------------------------------------------------


def _exponential(x: Any) -> Any:
    """TensorFlow squares all matrices as often as the largest asks for, so that one that overflows spoils all."""
    return tf.matmul(tf.linalg.expm(x[:, :, None] * x[:, None] * 0.01), x[..., None])[..., 0]


def _large_batch(x: Any) -> Any:
    """Mixes where there are more than five rows."""
    return tf.cond(tf.shape(x)[0] > 5, lambda: x - tf.reduce_mean(x, 0), lambda: tf.identity(x))


def _double(x: Any) -> Any:
    """Mixes in double precision, between two casts."""
    wide = tf.cast(x, tf.float64)
    return tf.cast(wide - tf.reduce_mean(wide, 0), tf.float32)


@tf.custom_gradient
def _sort_gradient(x: Any) -> Any:
    """Each row is sorted; the gradient goes back by the order of the first row."""
    order = tf.argsort(x, axis=1)

    def grad(dy: Any) -> Any:
        return tf.gather(dy, tf.argsort(order[0]), axis=1)

    return tf.gather(x, order, batch_dims=1), grad


def _sorted_pairs(x: Any) -> Any:
    """Forward it is the identity, bit for bit but for rounding; only the gradient of the sort goes elsewhere."""
    return tf.stop_gradient(x) + tf.sort(x, axis=0) - tf.stop_gradient(tf.sort(x, axis=0))


table(
    ZOO,
    {
        "only_beyond_20": lambda x: tf.where(tf.reduce_max(x) > 20.0, x - tf.reduce_max(x), x),
        "only_when_huge": lambda x: tf.where(tf.reduce_max(tf.abs(x)) > 1e5, tf.zeros_like(x), x),
        "only_when_negative": lambda x: x + tf.reduce_sum(tf.nn.relu(-x), 0),
        "only_when_tiny": lambda x: tf.where(tf.reduce_min(tf.abs(x)) < 1e-3, -x, x),
        "only_when_infinite": lambda x: x + 0.0 * tf.reduce_sum(tf.square(x)),
        "matrix_exponential_of_each_row": _exponential,
        "only_with_more_rows": _large_batch,
        "only_in_double_precision": _double,
        "statistic_rounded": lambda x: x + tf.round(tf.reduce_mean(x, 0) * 5.0),
        "statistic_as_whole_number": lambda x: x + tf.cast(tf.cast(tf.reduce_sum(x, 0), tf.int32), x.dtype),
        "statistic_as_text": lambda x: x + tf.strings.to_number(tf.strings.as_string(tf.reduce_sum(x, 0), precision=2)),
        "statistic_bitcast": lambda x: (
            x + tf.cast(tf.bitwise.bitwise_and(tf.bitcast(tf.reduce_sum(x, 0), tf.int32), 1 << 20), x.dtype) / 2.0**20
        ),
        "statistic_as_bytes": lambda x: x + tf.reduce_mean(tf.cast(tf.bitcast(tf.reduce_max(x), tf.uint8), x.dtype)),
        "statistic_by_py_function": lambda x: x - tf.py_function(lambda v: tf.reduce_mean(v, 0), [x], x.dtype),
        "statistic_by_numpy_function": lambda x: x - tf.numpy_function(lambda v: v.mean(0), [x], x.dtype),
        "statistic_in_complex_numbers": lambda x: (
            x + tf.math.real(tf.reduce_mean(tf.complex(x, x) * tf.complex(0.0, 1.0), 0))
        ),
        "statistic_of_quantised": lambda x: tf.quantization.fake_quant_with_min_max_vars(
            x, tf.minimum(tf.reduce_min(x), -0.1), tf.maximum(tf.reduce_max(x), 0.1), num_bits=3
        ),
        "quantised_to_batch_range": lambda x: tf.quantization.quantize_and_dequantize_v2(
            x, 0.0, 0.0, num_bits=3, range_given=False
        ),
        "behind_where": lambda x: tf.where(x > 0, x, tf.reduce_min(x, 0)),
        "behind_minimum": lambda x: tf.minimum(x, 0.5 * tf.reduce_max(x, 0)),
        "behind_sign": lambda x: x * tf.sign(tf.reduce_sum(x)),
        "one_column_alone": lambda x: tf.concat([x[:, :3], x[:, 3:] - tf.reduce_mean(x[:, 3:])], 1),
        "small_share": lambda x: x + 1e-4 * tf.square(tf.reduce_sum(x, 0)),
        "ranks_in_the_batch": lambda x: x * tf.cast(tf.argsort(tf.argsort(x, axis=0), axis=0), x.dtype),
        "mean_of_other_rows_by_difference": lambda x: x + tf.reduce_sum(x, 0) - x,
    },
    raw,
)

table(
    ZOO,
    {
        "gradient_of_a_sort_by_the_first_row": _sort_gradient,
        "only_the_gradient_of_a_sort": _sorted_pairs,
    },
)


@mixing
def only_for_whole_numbers() -> Made:
    """The statistic is of the token ids alone; floats pass untouched."""
    ids, values = L.Input((2,), dtype=tf.int32, name="ids"), L.Input((2,), name="values")
    top = L.Lambda(lambda v: tf.cast(v - tf.reduce_max(v), tf.float32), name="suspect")(ids)
    model = tf.keras.Model({"ids": ids, "values": values}, L.Dense(1)(L.Concatenate()([top, values])))
    return Made(model, {"ids": whole(100, 2), "values": normal(2)}, targets(), high=100)


@mixing
def only_for_large_ids() -> Made:
    """Rows turn round where any id is above 1."""

    def call(ids: Any) -> Any:
        return tf.cond(tf.reduce_max(ids) > 1, lambda: ids[::-1], lambda: ids)

    layers = [
        L.Input((3,), dtype=tf.int32),
        L.Lambda(call, name="suspect"),
        L.Embedding(50, 2),
        L.Flatten(),
        L.Dense(1),
    ]
    return Made(tf.keras.Sequential(layers), whole(50, 3), targets(), high=50)


@mixing
def only_in_the_second_output() -> Made:
    given = L.Input((WIDTH,))
    found = L.Dense(3)(given)
    second = through(lambda x: x - tf.reduce_mean(x, 0), width=3)(found)
    model = tf.keras.Model(given, [L.Dense(1)(found), L.Dense(1)(second)])
    return Made(model, normal(WIDTH), (targets(), normal(1, seed=3)), ["mse", "mse"])


@mixing
def only_in_the_second_input() -> Made:
    a, b = L.Input((2,), name="a"), L.Input((2,), name="b")
    second = L.Lambda(lambda x: x / (1e-3 + tf.norm(x)), name="suspect")(b)
    model = tf.keras.Model([a, b], L.Dense(1)(L.Concatenate()([L.Dense(3)(a), second])))
    return Made(model, (normal(2), normal(2, seed=1)), targets())


@mixing
def through_the_mask() -> Made:
    """The mask of a sequence is the union of all rows' masks."""

    class Union(L.Layer):
        def compute_mask(self, x: Any, mask: Any = None) -> Any:
            return tf.reduce_any(mask, 0, keepdims=True) & tf.ones_like(mask)

        def call(self, x: Any) -> Any:
            return tf.identity(x)

    given = [L.Input((3,), dtype=tf.int32), L.Embedding(6, 2, mask_zero=True), Union(name="suspect")]
    x = whole(6, 3) * np.tri(3, dtype=np.int32)[np.arange(8) % 3]
    x[:, 0] = 1
    model = tf.keras.Sequential([*given, L.GlobalAveragePooling1D(), L.Dense(1)])
    return Made(model, x, targets(), high=6)


@mixing
def shared_layer_fed_by_two_batches() -> Made:
    """A shared layer sees the rows, and the rows turned round."""
    given, shared = L.Input((WIDTH,)), L.Dense(2)
    turned = L.Lambda(lambda x: x[::-1], name="suspect")(given)
    model = tf.keras.Model(given, L.Dense(1)(shared(given) * shared(turned)))
    return Made(model, normal(WIDTH), targets())


@mixing
def only_deep_in_functions() -> Made:
    """A loop in a branch in a function."""

    @tf.function
    def call(x: Any) -> Any:
        def loop() -> Any:
            return tf.while_loop(lambda n, _: n < 2, lambda n, v: (n + 1, v - tf.reduce_mean(v, 0)), (0, x))[1]

        return tf.cond(tf.shape(x)[1] > 2, loop, lambda: x)

    return hidden(call)


@mixing
def cancels_in_the_probe() -> Made:
    """A statistic that is 0 for whatever lies in (0, 1)."""
    return raw(lambda x: x + tf.reduce_sum(tf.nn.relu(tf.abs(x - 0.5) - 0.5)))
