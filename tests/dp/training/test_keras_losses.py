"""The loss of an example is that of Keras for a batch that holds this example alone: masks, reductions, weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp import PrivacyPlan, make_private
from privacy_pipeline.dp.training.from_keras.model_losses import ModelLosses, per_example_loss
from privacy_pipeline.errors import BadInputError

L, LOSSES = tf.keras.layers, tf.keras.losses
R = LOSSES.Reduction
STEPS, CLASSES, WORDS, EXAMPLES = 6, 3, 7, 5


def tokens(mask: bool) -> Any:
    """Words of which 0 is padding; outputs a number for each class and step."""
    tf.keras.utils.set_random_seed(3)
    given = L.Input((STEPS,), dtype="int64")
    hidden = L.SimpleRNN(4, return_sequences=True)(L.Embedding(WORDS, 3, mask_zero=mask)(given))
    return tf.keras.Model(given, L.Dense(CLASSES)(hidden))


def padded() -> tuple[Any, Any]:
    """Sequences of 6, 4, 2, 1 and 0 words, and their labels."""
    generator = np.random.default_rng(5)
    x = generator.integers(1, WORDS, (EXAMPLES, STEPS))
    for row, length in enumerate((6, 4, 2, 1, 0)):
        x[row, length:] = 0
    return x, generator.integers(0, CLASSES, (EXAMPLES, STEPS))


def one_hot(labels: Any) -> Any:
    return np.eye(CLASSES, dtype=np.float32)[labels]


SPARSE = LOSSES.SparseCategoricalCrossentropy
CASES = {
    "sparse": (SPARSE(from_logits=True), False),
    "sparse, summed": (SPARSE(from_logits=True, reduction=R.SUM), False),
    "sparse, not reduced": (SPARSE(from_logits=True, reduction=R.NONE), False),
    "sparse, a class ignored": (SPARSE(from_logits=True, ignore_class=1), False),
    "sparse, a class ignored, summed": (SPARSE(from_logits=True, ignore_class=1, reduction=R.SUM), False),
    "dense": (LOSSES.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), True),
    "squared, by name": ("mse", True),
    "squared, summed": (LOSSES.MeanSquaredError(reduction=R.SUM), True),
    "huber": (LOSSES.Huber(), True),
    "a function": (lambda y, p: tf.abs(y - p), True),  # one value for each class: the mask covers all of a step's
}


@pytest.mark.slow_but("sparse-no mask", "a function-no mask")
@pytest.mark.parametrize("mask", [True, False], ids=["mask", "no mask"])
@pytest.mark.parametrize("kind", CASES)
def test_loss_and_gradient_of_an_example_are_those_of_keras(kind: str, mask: bool) -> None:
    loss, dense = CASES[kind]
    model = tokens(mask)
    model.compile("sgd", loss)
    x, y = padded()
    labels = one_hot(y) if dense else y
    losses = ModelLosses(model, per_example_loss(loss))
    for row in (0, 2):
        cut = slice(row, row + 1)
        with tf.GradientTape(persistent=True) as tape:
            found = losses(x[cut], labels[cut], True)
            right = model.compiled_loss(tf.constant(labels[cut]), model(x[cut], training=True))
            right = tf.reduce_sum(right)
        assert found.shape == (1,)
        assert np.isfinite(right)  # where nothing counts Keras gives NaN; see below
        np.testing.assert_allclose(found[0], right, rtol=1e-5, atol=1e-6)
        weights = model.trainable_variables
        for one, other in zip(tape.gradient(found, weights), tape.gradient(right, weights), strict=True):
            np.testing.assert_allclose(tf.convert_to_tensor(one), tf.convert_to_tensor(other), rtol=1e-4, atol=1e-6)
    batch = losses(x, labels, True)
    alone = [losses(x[row : row + 1], labels[row : row + 1], True)[0] for row in range(EXAMPLES)]
    np.testing.assert_allclose(batch, alone, rtol=1e-5, atol=1e-6)


def test_an_example_without_a_word_counts_as_nothing() -> None:
    x, y = padded()
    for reduction in (R.AUTO, R.SUM):
        losses = ModelLosses(tokens(True), per_example_loss(SPARSE(from_logits=True, reduction=reduction)))
        assert losses(x, y, True)[-1] == 0.0


def test_a_loss_that_runs_row_by_row_has_the_mask_too() -> None:
    x, y = padded()
    losses = ModelLosses(tokens(True), per_example_loss(SPARSE(from_logits=True)))
    pass_of = tf.function(
        losses.isolated(), input_signature=[*specs(x, y), tf.TensorSpec([], tf.bool)], autograph=False
    )
    np.testing.assert_allclose(pass_of(x, y, True), losses(x, y, True), rtol=1e-5, atol=1e-6)


def specs(*arrays: Any) -> list[Any]:
    return [tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in arrays]


def test_a_mask_that_no_value_of_the_loss_fits_is_one_line() -> None:
    x, y = padded()
    losses = per_example_loss(lambda labels, outputs: tf.reduce_mean(tf.square(labels - outputs), [1, 2]))
    with pytest.raises(BadInputError, match="a mask of 2 axes"):
        ModelLosses(tokens(True), losses)(x, one_hot(y), True)


@pytest.mark.slow
def test_padding_does_not_turn_the_update_around() -> None:
    x, y = padded()
    model, other = tokens(True), tokens(True)
    other.compile(tf.keras.optimizers.SGD(1.0), SPARSE(from_logits=True))
    plan = PrivacyPlan.calibrated(
        units=4, expected_batch_size=4, steps=1, noise_multiplier=1e-6, delta=1e-5, clipping_norm=1e3
    )
    before = [value.copy() for value in model.get_weights()]
    make_private(model, plan, optimizer=tf.keras.optimizers.SGD(1.0), loss=SPARSE(from_logits=True)).fit(x[:4], y[:4])
    found = np.concatenate([(a - b).ravel() for a, b in zip(before, model.get_weights(), strict=True)])
    with tf.GradientTape() as tape:
        each = [other.compiled_loss(tf.constant(y[i : i + 1]), other(x[i : i + 1])) for i in range(4)]
        total = tf.add_n(each)
    gradients = tape.gradient(total, other.trainable_variables)
    right = np.concatenate([tf.convert_to_tensor(gradient).numpy().ravel() for gradient in gradients])
    assert found @ right / np.linalg.norm(found) / np.linalg.norm(right) > 0.9999
