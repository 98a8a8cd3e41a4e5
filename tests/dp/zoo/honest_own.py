"""Honest layers, models and losses of a user's own: Lambdas, subclasses, gradients and losses that keep rows apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tests.dp.zoo.kit import (
    ROWS,
    WIDTH,
    Entry,
    Made,
    Zoo,
    adds_to,
    between,
    dense,
    normal,
    table,
    targets,
    through,
    whole,
)

L = tf.keras.layers
ZOO: Zoo = {}
honest = adds_to(ZOO)


def _flip(x: Any) -> Any:
    """Gradient reversal, of each row by itself."""

    @tf.custom_gradient
    def flipped(value: Any) -> Any:
        return tf.identity(value), lambda dy: -0.5 * dy

    return flipped(x)


@tf.custom_gradient
def _straight_through(x: Any) -> Any:
    return tf.sign(x), lambda dy: tf.where(tf.abs(x) < 1.0, dy, tf.zeros_like(dy))


@tf.function
def _function_of_function(x: Any) -> Any:
    return tf.function(lambda v: v * tf.sigmoid(v))(x) + 1.0


def _rounds(x: Any) -> Any:
    """A loop of a fixed number of rounds over all rows at once."""
    return tf.while_loop(lambda n, _: n < 3, lambda n, v: (n + 1, tf.tanh(v) + 0.5 * x), (0, x))[1]


def _standardised(x: Any) -> Any:
    mean, variance = tf.nn.moments(x, 1, keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + 0.1)


def _interactions(x: Any) -> Any:
    """Products of all pairs of a row's features, as in a factorization machine."""
    return x + 0.5 * (tf.square(tf.reduce_sum(x, 1, keepdims=True)) - tf.reduce_sum(tf.square(x), 1, keepdims=True))


table(
    ZOO,
    {
        "sort_of_each_row": lambda x: tf.sort(x, axis=1),
        "top_k_of_each_row": lambda x: tf.concat([tf.math.top_k(x, 2)[0], x[:, :2]], 1),
        "cumsum_of_each_row": lambda x: tf.cumsum(x, axis=1),
        "softmax_of_each_row": lambda x: tf.nn.softmax(x, axis=-1),
        "norm_of_each_row": lambda x: tf.clip_by_norm(x, 1.0, axes=[1]),
        "standardised_rows": _standardised,
        "reversed_rows": lambda x: tf.reverse(x, [1]) + tf.roll(x, 1, 1),
        "gather_in_each_row": lambda x: tf.gather(x, tf.argsort(x, axis=1), batch_dims=1),
        "gather_of_public_columns": lambda x: tf.gather(x, [3, 1, 2, 0], axis=1),
        "einsum_of_each_row": lambda x: tf.einsum("bi,bj->bi", x, x),
        "outer_product_of_each_row": lambda x: tf.matmul(x[:, :, None] * x[:, None], x[..., None])[..., 0],
        "feature_interactions": _interactions,
        "gradient_reversal": _flip,
        "straight_through": _straight_through,
        "functions_in_functions": _function_of_function,
        "fixed_rounds": _rounds,
        "reshaped_back": lambda x: tf.reshape(tf.nn.relu(tf.reshape(x, [-1, 2, 2])), [-1, WIDTH]),
        "shape_of_the_batch": lambda x: tf.reshape(x[..., None] * tf.ones([1, 1, 2]), [tf.shape(x)[0], -1])[:, ::2],
        "padded_columns": lambda x: tf.pad(x, [[0, 0], [1, 0]])[:, :-1] - x,
        "where_of_each_value": lambda x: tf.where(x > 0, x, tf.math.expm1(x)),
        "concat_of_columns": lambda x: tf.concat([x[:, 2:], tf.square(x[:, :2])], -1),
        "stacked_and_unstacked": lambda x: tf.unstack(tf.stack([x, 2.0 * x], 1), axis=1)[1],
        "transposed_there_and_back": lambda x: tf.transpose(tf.transpose(x) * 2.0),
        "stopped_gradient_of_each_row": lambda x: x - tf.stop_gradient(tf.reduce_mean(x, 1, keepdims=True)),
        "constants_added": lambda x: x + tf.constant([1.0, -1.0, 0.5, 2.0]) + tf.linspace(0.0, 1.0, WIDTH),
        "cast_to_double_and_back": lambda x: tf.cast(tf.square(tf.cast(x, tf.float64)), tf.float32),
        "recomputed": tf.recompute_grad(lambda x: tf.nn.gelu(x) * 2.0),
    },
)
table(ZOO, {"map_over_rows": lambda x: tf.map_fn(lambda row: row / (1.0 + tf.norm(row)), x)}, fast=False)
table(
    ZOO,
    {"vectorized_map_over_rows": lambda x: tf.vectorized_map(lambda row: row / (1.0 + tf.reduce_sum(row**2)), x)},
    fast=False,
)


class Gated(L.Layer):
    """A layer with weights of its own."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight("kernel", shape=[shape[-1], shape[-1]])
        self.scale = self.add_weight("scale", shape=[shape[-1]])

    def call(self, x: Any) -> Any:
        return tf.sigmoid(tf.matmul(x, self.kernel)) * x * self.scale


class Expert(L.Layer):
    """A layer that holds layers: two experts and a gate between them."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.one, self.two, self.gate = L.Dense(3), L.Dense(3, "relu"), L.Dense(2, "softmax")

    def call(self, x: Any) -> Any:
        gate = self.gate(x)
        return self.one(x) * gate[:, :1] + self.two(x) * gate[:, 1:]


class Pooled(L.Layer):
    """Attention pooling by hand: a trained query over the steps of each row."""

    def build(self, shape: Any) -> None:
        self.query = self.add_weight("query", shape=[shape[-1]])

    def call(self, x: Any) -> Any:
        weights = tf.nn.softmax(tf.tensordot(x, self.query, 1))
        return tf.einsum("bt,btd->bd", weights, x)


class OwnModel(tf.keras.Model):
    """A subclassed model, with a branch on `training`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = L.Dense(4, "relu"), L.LayerNormalization(), L.Dense(1)

    def call(self, x: Any, training: bool = False) -> Any:
        found = self.norm(self.first(x))
        return self.last(2.0 * found if training else found)


@honest
def own_layer_with_weights() -> Made:
    return between(Gated())


@honest
def own_layer_with_layers() -> Made:
    return between(Expert())


@honest
def attention_pooling() -> Made:
    return Made(tf.keras.Sequential([L.Input((4, 3)), Pooled(), L.Dense(1)]), normal(4, 3), targets())


@honest
def own_model() -> Made:
    model = OwnModel()
    model.build((None, WIDTH))
    return Made(model, normal(WIDTH), targets())


@honest
def plain_functions_on_keras_tensors() -> Made:
    given = L.Input((WIDTH,))
    found = L.Dense(3)(given)
    found = tf.concat([found, tf.square(found)], 1) / (1.0 + tf.reduce_sum(tf.abs(found), 1, keepdims=True))
    return Made(tf.keras.Model(given, L.Dense(1)(found)), normal(WIDTH), targets())


@honest
def positions_in_a_sequence() -> Made:
    """Positions are of the steps, not of the rows."""

    def call(x: Any) -> Any:
        place = tf.cast(tf.range(tf.shape(x)[1]), x.dtype)[None, :, None]
        return x + tf.sin(place)

    layers = [L.Input((4, 2)), L.Dense(3), L.Lambda(call), L.GlobalMaxPooling1D(), L.Dense(1)]
    return Made(tf.keras.Sequential(layers), normal(4, 2), targets())


@honest
def mean_of_masked_tokens() -> Made:
    """Each row's mean over its own tokens."""
    given = L.Input((4,), dtype=tf.int32)
    kept = L.Lambda(lambda ids: tf.cast(ids > 0, tf.float32)[..., None])(given)
    pooled = L.Lambda(lambda v: tf.reduce_sum(v[0] * v[1], 1) / (1.0 + tf.reduce_sum(v[1], 1)))(
        [L.Embedding(6, 3)(given), kept]
    )
    return Made(tf.keras.Model(given, L.Dense(1)(pooled)), whole(6, 4), targets(), high=6)


@honest
def one_hot_by_hand() -> Made:
    layers = [L.Input((2,), dtype=tf.int32), L.Lambda(lambda ids: tf.reshape(tf.one_hot(ids, 4), [-1, 8])), L.Dense(1)]
    return Made(tf.keras.Sequential(layers), whole(4, 2), targets(), high=4)


@honest
def two_towers() -> Made:
    a, b = L.Input((3,), name="a"), L.Input((3,), name="b")
    near = L.Lambda(lambda v: tf.reduce_sum(v[0] * v[1], -1, keepdims=True))([L.Dense(2)(a), L.Dense(2)(b)])
    return Made(tf.keras.Model([a, b], near), (normal(3), normal(3, seed=1)), targets())


@honest
def activation_of_ones_own() -> Made:
    return between(L.Dense(3, activation=lambda x: x * tf.tanh(tf.nn.softplus(x))))


@honest
def lambda_before_the_weights() -> Made:
    layers = [L.Input((WIDTH,)), through(lambda x: tf.math.log1p(tf.abs(x))), L.Dense(2, "relu"), L.Dense(1)]
    return Made(tf.keras.Sequential(layers), normal(WIDTH), targets())


# --- losses ------------------------------------------------------------------------------------------------------

CLASSES = 3


def _classes() -> Any:
    return (np.arange(ROWS) % CLASSES).astype(np.int32)


def focal(y: Any, p: Any) -> Any:
    hot = tf.one_hot(tf.cast(y, tf.int32), CLASSES)
    chance = tf.reduce_sum(hot * tf.nn.softmax(p), 1)
    return -tf.square(1.0 - chance) * tf.math.log(chance + 1e-6)


def smoothed_labels(y: Any, p: Any) -> Any:
    hot = tf.one_hot(tf.cast(y, tf.int32), CLASSES) * 0.9 + 0.1 / CLASSES
    return tf.nn.softmax_cross_entropy_with_logits(hot, p)


def public_class_weights(y: Any, p: Any) -> Any:
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(y, tf.int32), p)
    return losses * tf.gather(tf.constant([1.0, 2.0, 0.5]), tf.cast(y, tf.int32))


def margin(y: Any, p: Any) -> Any:
    """The true class's output against the largest of the others, in each row."""
    hot = tf.one_hot(tf.cast(y, tf.int32), CLASSES)
    return tf.nn.relu(1.0 + tf.reduce_max(p - 1e3 * hot, 1) - tf.reduce_sum(p * hot, 1))


def huber(y: Any, p: Any) -> Any:
    away = tf.abs(tf.reshape(y, tf.shape(p)) - p)
    return tf.reduce_sum(tf.where(away < 1.0, 0.5 * tf.square(away), away - 0.5), 1)


def quantile(y: Any, p: Any) -> Any:
    away = y - p
    return tf.reduce_mean(tf.maximum(0.9 * away, -0.1 * away), axis=-1)


def gaussian_likelihood(y: Any, p: Any) -> Any:
    """A mean and a log-variance for each row."""
    return p[:, 1] + tf.square(y[:, 0] - p[:, 0]) * tf.exp(-p[:, 1])


def weighted_by_column(y: Any, p: Any) -> Any:
    """The second column of the labels is the row's own weight."""
    return tf.square(y[:, 0] - p[:, 0]) * tf.abs(y[:, 1])


for _loss in (focal, smoothed_labels, public_class_weights, margin):
    _name = f"loss_{_loss.__name__}"
    ZOO[_name] = Entry(_name, lambda loss=_loss: dense(loss, _classes(), out=CLASSES, classes=CLASSES))
for _loss, _out in ((huber, 1), (quantile, 1), (gaussian_likelihood, 2)):
    _name = f"loss_{_loss.__name__}"
    ZOO[_name] = Entry(_name, lambda loss=_loss, out=_out: dense(loss, targets(1), out=out))


@honest
def loss_weighted_by_column() -> Made:
    return dense(weighted_by_column, targets(2))


class RelativeError(tf.keras.losses.Loss):
    """A Keras loss of one's own."""

    def call(self, y: Any, p: Any) -> Any:
        return tf.reduce_mean(tf.square(y - p) / (1.0 + tf.square(y)), axis=-1)


@honest
def loss_of_own_keras_class() -> Made:
    return dense(RelativeError(), targets())


@honest
def loss_categorical() -> Made:
    """One-hot labels, and their logits."""
    loss = tf.keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    return dense(loss, np.eye(CLASSES, dtype=np.float32)[_classes()], out=CLASSES, classes=2)


@honest
def loss_categorical_of_a_softmax() -> Made:
    labels = np.eye(CLASSES, dtype=np.float32)[_classes()]
    return dense("categorical_crossentropy", labels, out=CLASSES, classes=2, activation="softmax")


@honest
def loss_of_masked_tokens() -> Made:
    """Each row's mean over its own tokens that are not padding."""

    def loss(y: Any, p: Any) -> Any:
        kept = tf.cast(y > 0, tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(y, tf.int32), p) * kept
        return tf.reduce_sum(losses, 1) / (1.0 + tf.reduce_sum(kept, 1))

    layers = [L.Input((3,), dtype=tf.int32), L.Embedding(6, 3), L.Dense(4)]
    return Made(tf.keras.Sequential(layers), whole(6, 3), whole(4, 3, seed=2), loss, high=6, classes=4)


@honest
def loss_of_each_rows_list() -> Made:
    """Pairs are of a row's own items: a ranking loss within the row."""

    def loss(y: Any, p: Any) -> Any:
        order = tf.sign(y[:, :, None] - y[:, None])
        return tf.reduce_mean(tf.nn.softplus(-order * (p[:, :, None] - p[:, None])), [1, 2])

    return dense(loss, targets(3), out=3)
