"""Losses that mix rows: weights by frequency in the batch, comparisons of rows, normalisations by the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tests.dp.zoo.kit import ROWS, WIDTH, Entry, Made, Zoo, adds_to, dense, normal, targets, whole

L = tf.keras.layers
ZOO: Zoo = {}
mixing = adds_to(ZOO)
CLASSES = 3


def _classes() -> Any:
    return (np.arange(ROWS) % CLASSES).astype(np.int32)


def _entropy(y: Any, p: Any) -> Any:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.reshape(tf.cast(y, tf.int32), [-1]), p)


def _squared(y: Any, p: Any) -> Any:
    return tf.reduce_sum(tf.square(tf.reshape(y, tf.shape(p)) - p), 1)


def _first(p: Any) -> Any:
    return p[:, 0]


# --- of classes --------------------------------------------------------------------------------------------------


def _flat(y: Any) -> Any:
    return tf.reshape(tf.cast(y, tf.int32), [-1])


def class_frequency(y: Any, p: Any) -> Any:
    counts = tf.math.bincount(_flat(y), minlength=CLASSES, dtype=tf.float32)
    return _entropy(y, p) / (1e-3 + tf.gather(counts, _flat(y)))


def class_frequency_by_one_hot(y: Any, p: Any) -> Any:
    share = tf.reduce_mean(tf.one_hot(_flat(y), CLASSES), 0)
    return _entropy(y, p) * (1.0 - tf.gather(share, _flat(y)))


def rare_class_only(y: Any, p: Any) -> Any:
    """Classes above 1 are weighted by how often they occur; 0 and 1 are not."""
    count = tf.reduce_sum(tf.cast(_flat(y) > 1, tf.float32))
    return _entropy(y, p) * tf.where(_flat(y) > 1, 1.0 / tf.maximum(count, 1.0), 1.0)


def mean_over_labels_present(y: Any, p: Any) -> Any:
    """A mean over the classes that are in the batch of each class's mean."""
    losses, ids = _entropy(y, p), _flat(y)
    present = tf.cast(tf.size(tf.unique(ids)[0]), tf.float32)
    counts = tf.gather(tf.math.unsorted_segment_sum(tf.ones_like(losses), ids, CLASSES), ids)
    return losses / (counts * present)


def class_centres(y: Any, p: Any) -> Any:
    """Distance to the mean output of the row's class in the batch."""
    centre = tf.gather(tf.math.unsorted_segment_mean(p, _flat(y), CLASSES), _flat(y))
    return _entropy(y, p) + tf.reduce_sum(tf.square(p - centre), 1)


def class_centres_stopped(y: Any, p: Any) -> Any:
    centre = tf.stop_gradient(tf.gather(tf.math.unsorted_segment_mean(p, _flat(y), CLASSES), _flat(y)))
    return tf.reduce_sum(tf.square(p - centre), 1)


def supervised_contrastive(y: Any, p: Any) -> Any:
    same = tf.cast(_flat(y)[:, None] == _flat(y)[None], tf.float32)
    unit = tf.math.l2_normalize(p, 1)
    logits = tf.nn.log_softmax(tf.matmul(unit, unit, transpose_b=True))
    return -tf.reduce_sum(logits * same, 1) / tf.reduce_sum(same, 1)


def triplet_batch_hard(y: Any, p: Any) -> Any:
    away = tf.reduce_sum(tf.square(p[:, None] - p[None]), 2)
    same = tf.cast(_flat(y)[:, None] == _flat(y)[None], tf.float32)
    return tf.nn.relu(tf.reduce_max(away * same, 1) - tf.reduce_min(away + 1e3 * same, 1) + 1.0)


def hard_examples_only(y: Any, p: Any) -> Any:
    """Rows below the batch's second largest loss count as nothing."""
    losses = _entropy(y, p)
    edge = tf.math.top_k(losses, tf.minimum(2, tf.shape(losses)[0]))[0][-1]
    return losses * tf.cast(losses >= edge, tf.float32)


def focal_by_positives(y: Any, p: Any) -> Any:
    chance = tf.gather(tf.nn.softmax(p), _flat(y), batch_dims=1)
    positives = tf.reduce_sum(tf.cast(_flat(y) > 0, tf.float32))
    return -tf.square(1.0 - chance) * tf.math.log(chance + 1e-6) / (1.0 + positives)


def balanced_logits(y: Any, p: Any) -> Any:
    """Logits adjusted by the batch's class shares."""
    share = tf.reduce_mean(tf.one_hot(_flat(y), CLASSES), 0)
    return _entropy(y, p + tf.math.log(share + 1e-3))


def sinkhorn(y: Any, p: Any) -> Any:
    """Targets are outputs made even over the batch, as in clustering without labels."""
    aim = tf.exp(p - tf.reduce_max(p))
    aim /= tf.reduce_sum(aim, 0, keepdims=True)
    aim /= tf.reduce_sum(aim, 1, keepdims=True)
    return -tf.reduce_sum(tf.stop_gradient(aim) * tf.nn.log_softmax(p), 1)


def entropy_of_the_mean(y: Any, p: Any) -> Any:
    mean = tf.reduce_mean(tf.nn.softmax(p), 0)
    return _entropy(y, p) + tf.reduce_sum(mean * tf.math.log(mean + 1e-6))


for _loss in (
    *(class_frequency, class_frequency_by_one_hot, rare_class_only, mean_over_labels_present, class_centres),
    *(class_centres_stopped, supervised_contrastive, triplet_batch_hard, hard_examples_only, focal_by_positives),
    *(balanced_logits, sinkhorn, entropy_of_the_mean),
):
    _name = f"loss_{_loss.__name__}"
    ZOO[_name] = Entry(_name, lambda loss=_loss: dense(loss, _classes(), out=CLASSES, classes=CLASSES))


# --- of numbers --------------------------------------------------------------------------------------------------


def over_batch_sum(y: Any, p: Any) -> Any:
    losses = _squared(y, p)
    return losses / (1e-3 + tf.reduce_sum(losses))


def over_batch_sum_stopped(y: Any, p: Any) -> Any:
    losses = _squared(y, p)
    return losses / (1e-3 + tf.stop_gradient(tf.reduce_sum(losses)))


def over_batch_size(y: Any, p: Any) -> Any:
    return _squared(y, p) / tf.cast(tf.shape(p)[0], tf.float32)


def over_largest_label(y: Any, p: Any) -> Any:
    return _squared(y, p) / (1.0 + tf.reduce_max(tf.abs(y)))


def softmax_of_losses(y: Any, p: Any) -> Any:
    losses = _squared(y, p)
    return losses * tf.nn.softmax(losses)


def one_number_for_all(y: Any, p: Any) -> Any:
    return tf.zeros_like(_first(p)) + tf.reduce_mean(tf.square(tf.reshape(y, tf.shape(p)) - p))


def pairwise_hinge(y: Any, p: Any) -> Any:
    flat = tf.reshape(y, [-1])
    order = tf.sign(flat[:, None] - flat[None])
    return tf.reduce_mean(tf.nn.relu(1.0 - order * (_first(p)[:, None] - _first(p)[None])), 1)


def left_as_pairs(y: Any, p: Any) -> Any:
    """Gives [B, B], of which the engine takes the mean over the second axis."""
    return tf.square(tf.reshape(y, [1, -1]) - p)


def noise_contrast(y: Any, p: Any) -> Any:
    logits = tf.matmul(p, tf.reshape(y, tf.shape(p)), transpose_b=True)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.range(tf.shape(p)[0]), logits)


def correlation(y: Any, p: Any) -> Any:
    flat = tf.reshape(y, [-1])
    a, b = flat - tf.reduce_mean(flat), _first(p) - tf.reduce_mean(p)
    return -a * b / (1e-3 + tf.norm(a) * tf.norm(b))


def maximum_mean_discrepancy(y: Any, p: Any) -> Any:
    flat = tf.reshape(y, [-1])
    same = tf.exp(-tf.square(_first(p)[:, None] - _first(p)[None]))
    return tf.reduce_mean(same - 2.0 * tf.exp(-tf.square(_first(p)[:, None] - flat[None])), 1)


def sorted_distance(y: Any, p: Any) -> Any:
    """Distance of sorted outputs from sorted labels: Wasserstein in one dimension."""
    return tf.square(tf.sort(_first(p)) - tf.sort(tf.reshape(y, [-1])))


def partial_likelihood(y: Any, p: Any) -> Any:
    """Cox: each row against all rows that lived as long."""
    flat = tf.reshape(y, [-1])
    at_risk = tf.cast(flat[None] >= flat[:, None], tf.float32)
    return tf.math.log(tf.linalg.matvec(at_risk, tf.exp(_first(p)))) - _first(p)


def variance_kept_up(y: Any, p: Any) -> Any:
    return _squared(y, p) + tf.nn.relu(1.0 - tf.math.reduce_std(p, 0))[0]


def previous_row(y: Any, p: Any) -> Any:
    """Differences between a row and the one before, as for a series."""
    return _squared(y, p) + tf.square(_first(p) - tf.roll(_first(p), 1, 0))


def labels_of_next_row(y: Any, p: Any) -> Any:
    return _squared(tf.roll(y, 1, 0), p)


def median_cut(y: Any, p: Any) -> Any:
    """Losses above twice the batch's median are cut."""
    losses = _squared(y, p)
    return tf.minimum(losses, 2.0 * tf.stop_gradient(tf.sort(losses)[tf.shape(losses)[0] // 2]))


def standardised_labels(y: Any, p: Any) -> Any:
    return _squared((y - tf.reduce_mean(y)) / (1e-3 + tf.math.reduce_std(y)), p)


def only_for_large_labels(y: Any, p: Any) -> Any:
    """Mixes where a label lies above 50."""
    return _squared(y, p) * tf.where(tf.reduce_max(tf.abs(y)) > 50.0, -1.0, 1.0)


for _loss in (
    *(over_batch_sum, over_batch_sum_stopped, over_batch_size, over_largest_label, softmax_of_losses),
    *(one_number_for_all, pairwise_hinge, left_as_pairs, noise_contrast, correlation, maximum_mean_discrepancy),
    *(sorted_distance, partial_likelihood, variance_kept_up, previous_row, labels_of_next_row, median_cut),
    *(standardised_labels, only_for_large_labels),
):
    _name = f"loss_{_loss.__name__}"
    ZOO[_name] = Entry(_name, lambda loss=_loss: dense(loss, targets()))


class OfBatchMax(tf.keras.losses.Loss):
    """A Keras loss that is relative to the batch's largest error."""

    def call(self, y: Any, p: Any) -> Any:
        losses = _squared(y, p)
        return losses / (1e-3 + tf.reduce_max(losses))


@mixing
def loss_of_keras_subclass() -> Made:
    return dense(OfBatchMax(), targets())


@mixing
def loss_of_second_output() -> Made:
    given = L.Input((WIDTH,))
    found = L.Dense(3)(given)
    model = tf.keras.Model(given, {"a": L.Dense(1, name="a")(found), "b": L.Dense(1, name="b")(found)})
    labels = {"a": targets(), "b": normal(1, seed=3)}
    return Made(model, normal(WIDTH), labels, {"a": "mse", "b": lambda y, p: _squared(y, p - tf.reduce_mean(p))})


@mixing
def loss_by_a_backward_pass_that_mixes() -> Made:
    @tf.custom_gradient
    def same(p: Any) -> Any:
        return tf.identity(p), lambda dy: dy - tf.reduce_mean(dy, 0)

    return dense(lambda y, p: _squared(y, same(p)), targets())


@mixing
def loss_over_sequences_and_rows() -> Made:
    """A mean over the tokens that are not padding, of all rows together."""

    def loss(y: Any, p: Any) -> Any:
        kept = tf.cast(y > 0, tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(y, tf.int32), p) * kept
        return tf.reduce_sum(losses, 1) / (1.0 + tf.reduce_sum(kept))

    layers = [L.Input((3,), dtype=tf.int32), L.Embedding(6, 3), L.Dense(4)]
    return Made(tf.keras.Sequential(layers), whole(6, 3), whole(4, 3, seed=2), loss, high=6, classes=4)
