"""Mixing by reductions over the batch: statistics, norms, scans and normalisations by hand."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tests.dp.zoo.kit import WIDTH, Made, Zoo, adds_to, between, hidden, normal, raw, table, targets, through

L = tf.keras.layers
ZOO: Zoo = {}
mixing = adds_to(ZOO)

table(
    ZOO,
    {
        "mean_over_batch": lambda x: x - tf.reduce_mean(x, 0, keepdims=True),
        "mean_over_everything": lambda x: x - tf.reduce_mean(x),
        "mean_over_negative_axis": lambda x: x - tf.reduce_mean(x, axis=-2, keepdims=True),
        "max_over_batch": lambda x: x - tf.reduce_max(x, 0, keepdims=True),
        "min_over_batch": lambda x: x - tf.reduce_min(x, 0, keepdims=True),
        "sum_over_batch": lambda x: x + tf.reduce_sum(x, 0, keepdims=True),
        "product_over_batch": lambda x: x * tf.reduce_prod(x, 0, keepdims=True),
        "deviation_over_batch": lambda x: x / (1e-3 + tf.math.reduce_std(x, 0)),
        "logsumexp_over_batch": lambda x: x - tf.reduce_logsumexp(x, 0),
        "euclidean_norm_over_batch": lambda x: x / (1e-3 + tf.math.reduce_euclidean_norm(x)),
        "norm_of_the_batch": lambda x: x / (1e-3 + tf.norm(x)),
        "l2_loss_of_the_batch": lambda x: x / (1.0 + tf.nn.l2_loss(x)),
        "l2_normalize_batch_axis": lambda x: tf.math.l2_normalize(x, 0),
        "softmax_over_batch": lambda x: tf.nn.softmax(x, axis=0),
        "log_softmax_over_batch": lambda x: tf.nn.log_softmax(x, axis=0),
        "cumsum_over_batch": lambda x: tf.cumsum(x, 0),
        "cumsum_reversed_exclusive": lambda x: tf.cumsum(x, 0, exclusive=True, reverse=True),
        "cumprod_over_batch": lambda x: tf.math.cumprod(x, 0),
        "cumulative_logsumexp": lambda x: tf.math.cumulative_logsumexp(x, 0),
        "share_of_zeros": lambda x: x * (1.0 + tf.math.zero_fraction(tf.nn.relu(x))),
        "any_over_batch": lambda x: x * (1.0 + tf.cast(tf.reduce_any(x > 0.5, 0), x.dtype)),
        "all_over_batch": lambda x: x * (1.0 + tf.cast(tf.reduce_all(x > -0.5, 0), x.dtype)),
        "argmax_over_batch": lambda x: x * tf.cast(1 + tf.argmax(x, 0), x.dtype),
        "count_nonzero": lambda x: x * tf.cast(tf.math.count_nonzero(x > 0), x.dtype),
        "histogram": lambda x: x * (1.0 + tf.cast(tf.histogram_fixed_width(x, [-2.0, 2.0], nbins=WIDTH), x.dtype)),
        "top_k_over_batch": lambda x: x - tf.transpose(tf.math.top_k(tf.transpose(x), 1)[0]),
        "in_top_k": lambda x: x * (1.0 + tf.cast(x >= tf.math.top_k(tf.reshape(x, [-1]), 3)[0][-1], x.dtype)),
        "median_by_sorting": lambda x: x - tf.sort(x, axis=0)[tf.shape(x)[0] // 2],
        "einsum_sum": lambda x: x + tf.einsum("bi->i", x),
        "matmul_with_ones": lambda x: x - tf.matmul(tf.ones_like(x[:, :1]), x, transpose_a=True),
        "tensordot_over_batch": lambda x: x + tf.tensordot(x, x, [[0], [0]])[0],
        "add_n_of_rows": lambda x: x + tf.add_n([x[0], x[-1]]),
        "clip_by_global_norm": lambda x: tf.clip_by_global_norm([x], 0.5)[0][0],
        "clip_by_average_norm": lambda x: tf.compat.v1.clip_by_average_norm(x, 0.1),
        "clip_to_batch_extremes": lambda x: tf.clip_by_value(x, 0.5 * tf.reduce_min(x), 0.5 * tf.reduce_max(x)),
        "share_above_first": lambda x: x * tf.reduce_mean(tf.cast(x > x[:1], x.dtype)),
    },
)
table(
    ZOO,
    {
        "clip_over_whole_batch": lambda x: tf.clip_by_norm(x, 20.0),
        "clip_over_batch_axis": lambda x: tf.clip_by_norm(x, 20.0, axes=[0]),
    },
    raw,
)


@mixing
def layer_norm_by_hand() -> Made:
    """Takes the moments over all axes, the batch's among them."""

    def call(x: Any) -> Any:
        mean, variance = tf.nn.moments(x, [0, 1])
        return (x - mean) * tf.math.rsqrt(variance + 1e-3)

    return hidden(call)


@mixing
def batch_moments() -> Made:
    def call(x: Any) -> Any:
        mean, variance = tf.nn.moments(x, 0)
        return tf.nn.batch_normalization(x, mean, variance, None, None, 1e-3)

    return hidden(call)


@mixing
def weighted_moments() -> Made:
    return hidden(lambda x: x - tf.nn.weighted_moments(x, 0, tf.nn.sigmoid(x))[0])


@mixing
def sufficient_statistics() -> Made:
    def call(x: Any) -> Any:
        count, total, squares, _ = tf.nn.sufficient_statistics(x, [0])
        return (x - total / count) / (1.0 + squares / count)

    return hidden(call)


@mixing
def fused_batch_norm() -> Made:
    def call(x: Any) -> Any:
        image = tf.reshape(x, [-1, 1, 1, WIDTH])
        found, _, _ = tf.compat.v1.nn.fused_batch_norm(image, tf.ones([WIDTH]), tf.zeros([WIDTH]), is_training=True)
        return tf.reshape(found, tf.shape(x))

    return hidden(call)


@mixing
def batch_normalization_layer() -> Made:
    return between(L.BatchNormalization(name="suspect"))


@mixing
def unit_normalization_of_axis_0() -> Made:
    return between(L.UnitNormalization(axis=0, name="suspect"))


@mixing
def per_image_standardization_of_the_batch() -> Made:
    """The batch is taken for the height of one image."""
    return hidden(lambda x: tf.image.per_image_standardization(x[..., None])[..., 0])


@mixing
def group_norm_across_rows() -> Made:
    """Groups are formed along the batch: reshaped to [2, B / 2, D]."""

    def call(x: Any) -> Any:
        grouped = tf.reshape(tf.concat([x, x], 0), [2, -1, WIDTH])
        return tf.reshape(grouped - tf.reduce_mean(grouped, 1, keepdims=True), [-1, WIDTH])[: tf.shape(x)[0]]

    return hidden(call)


class ScaledByBatch(L.Layer):
    """A trained scale, times the batch's largest absolute value."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight("scale", shape=[shape[-1]])

    def call(self, x: Any) -> Any:
        return x * self.scale / (1e-3 + tf.reduce_max(tf.abs(x)))


@mixing
def weights_and_statistic_in_one_layer() -> Made:
    return between(ScaledByBatch(name="suspect"))


class Inner(L.Layer):
    """A layer of the user's own that centres what an inner layer gives."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.inner = L.Dense(WIDTH)

    def call(self, x: Any) -> Any:
        found = self.inner(x)
        return found - tf.reduce_mean(found, 0)


@mixing
def statistic_of_an_inner_layer() -> Made:
    return between(Inner(name="suspect"))


class OwnModel(tf.keras.Model):
    """A subclassed model with a statistic in its own `call`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = L.Dense(WIDTH), L.Dense(1)

    def call(self, x: Any) -> Any:
        found = self.first(x)
        return self.last(found - tf.reduce_mean(found, 0))


@mixing
def statistic_in_a_subclassed_model() -> Made:
    model = OwnModel()
    model.build((None, WIDTH))
    return Made(model, normal(WIDTH), targets())


@mixing
def statistic_in_an_activation() -> Made:
    """The activation of a dense layer, which has a rule, reduces over the batch."""
    layers = [
        L.Input((WIDTH,)),
        L.Dense(WIDTH, activation=lambda x: x - tf.reduce_mean(x, 0), name="suspect"),
        L.Dense(1),
    ]
    return Made(tf.keras.Sequential(layers), normal(WIDTH), targets())


@mixing
def statistic_without_a_layer() -> Made:
    """Plain TensorFlow functions on Keras tensors, without a Lambda."""
    given = L.Input((WIDTH,))
    found = L.Dense(WIDTH)(given)
    return Made(tf.keras.Model(given, L.Dense(1)(found - tf.reduce_mean(found, 0))), normal(WIDTH), targets())


@mixing
def statistic_in_a_nested_model() -> Made:
    inner = tf.keras.Sequential([L.Input((WIDTH,)), through(lambda x: x - tf.reduce_mean(x, 0))], name="inner")
    return between(inner)


@mixing
def statistic_inside_time_distributed() -> Made:
    """TimeDistributed folds time into the batch: the mean is over rows and steps."""
    layers = [
        L.Input((3, 2)),
        L.TimeDistributed(L.Lambda(lambda x: x - tf.reduce_mean(x, 0)), name="suspect"),
        L.Flatten(),
        L.Dense(1),
    ]
    return Made(tf.keras.Sequential(layers), normal(3, 2), targets())
