"""Padding does not count in federated rounds: losses, updates and metrics are those of Keras, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from federated.evaluation import Evaluator
from federated.fast.engine import FastEngine
from federated.model import FederatedModel
from privacy_pipeline.config.models.federated import FederatedAlgorithm, OptimizerSection
from tests.federated.fed_examples import MadeClients

L = tf.keras.layers
WORDS, STEPS = 9, 5


def padded_clients(sizes: list[int]) -> MadeClients:
    """Ids with zeros at the end, and a label for each of them, which is 1 where there is padding."""
    random = np.random.default_rng(0)
    rows = sum(sizes)
    x = random.integers(1, WORDS, [rows, STEPS]).astype(np.int64)
    x[np.arange(STEPS) >= random.integers(1, STEPS + 1, rows)[:, None]] = 0
    labels = np.where(x == 0, 1, x % 2).astype(np.int64)
    return MadeClients({"x": x}, labels, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def tagger(*, masked: bool = True, classes: int = 2, loss: Any = None, recurrent: str = "SimpleRNN") -> FederatedModel:
    tf.keras.utils.set_random_seed(3)
    given = tf.keras.Input((STEPS,), dtype=tf.int64, name="x")
    hidden = getattr(L, recurrent)(4, return_sequences=True)(L.Embedding(WORDS, 3, mask_zero=masked)(given))
    found = loss or tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return FederatedModel(tf.keras.Model(given, L.Dense(classes)(hidden)), loss=found)


LOSSES = {
    "classes": (2, tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
    "a number": (1, tf.keras.losses.MeanSquaredError()),
    "yes or no": (1, tf.keras.losses.BinaryCrossentropy(from_logits=True)),
}


def keras_update(model: FederatedModel, x: Any, y: Any, rate: float) -> list[Any]:
    """Weights after one step by the mean of the gradients of Keras's own loss, each of a batch of one row."""
    variables, sums = model.keras.trainable_variables, None
    for row in range(len(x)):
        with tf.GradientTape() as tape:
            predictions = model.keras(x[row : row + 1], training=True)
            labels = y[row : row + 1]
            loss = model.loss(labels[..., None] if predictions.shape[-1] == 1 else labels, predictions)
        found = [tf.convert_to_tensor(one) for one in tape.gradient(loss, variables)]
        sums = found if sums is None else [a + b for a, b in zip(sums, found, strict=True)]
    assert sums is not None
    return [v.numpy() - rate * g.numpy() / len(x) for v, g in zip(variables, sums, strict=True)]


@pytest.mark.slow_but("a number-without a mask")
@pytest.mark.parametrize("masked", [True, False], ids=["masked", "without a mask"])
@pytest.mark.parametrize("kind", LOSSES)
def test_a_round_makes_keras_step(kind: str, masked: bool) -> None:
    classes, loss = LOSSES[kind]
    clients, model = padded_clients([7]), tagger(masked=masked, classes=classes, loss=loss)
    features, labels = clients.examples_of(0)
    expected = keras_update(model, features["x"], labels, 0.5)
    algorithm = FederatedAlgorithm(batch_size=7, client_optimizer=OptimizerSection(learning_rate=0.5))
    engine = FastEngine(model=model, clients=clients, algorithm=algorithm)
    state = engine.run_round(engine.initial_state(), np.array([0])).state
    for mine, keras in zip(state.weights, expected, strict=True):
        np.testing.assert_allclose(mine, keras, atol=1e-6)


def test_padding_decides_something() -> None:
    clients, both = padded_clients([7]), []
    for masked in (True, False):
        model = tagger(masked=masked)
        features, labels = clients.examples_of(0)
        both.append(keras_update(model, features["x"], labels, 0.5))
    assert max(np.abs(a - b).max() for a, b in zip(*both, strict=True)) > 1e-2


@pytest.mark.parametrize("kind", LOSSES)
def test_metrics_of_a_client_are_those_of_its_rows(kind: str) -> None:
    classes, loss = LOSSES[kind]
    clients, model = padded_clients([4, 6]), tagger(classes=classes, loss=loss)
    metrics = Evaluator(model, clients).evaluate(model.weights())
    for client in range(2):
        features, labels = clients.examples_of(client)
        losses, right = [], []
        for x, y in zip(features["x"], labels, strict=True):
            predictions = model.keras(x[None])
            target = y[None, :, None] if classes == 1 else y[None]
            losses.append(float(model.loss(target, predictions)))
            threshold = 0.0 if kind == "yes or no" else 0.5
            found = predictions[0, :, 0] > threshold if classes == 1 else np.argmax(predictions[0], -1)
            right.append(np.mean((np.asarray(found) == y)[x > 0]))
        assert metrics.loss[client] == pytest.approx(np.mean(losses), abs=1e-5)
        assert metrics.accuracy[client] == pytest.approx(np.mean(right), abs=1e-6)


def test_one_hot_labels_of_positions_are_compared() -> None:
    clients, model = padded_clients([5]), tagger(loss=tf.keras.losses.CategoricalCrossentropy(from_logits=True))
    one_hot = MadeClients(clients.features, np.eye(2, dtype=np.float32)[clients.labels], clients.offsets)
    by_number = Evaluator(tagger(), clients).evaluate(model.weights())
    by_place = Evaluator(model, one_hot).evaluate(model.weights())
    np.testing.assert_allclose(by_place.accuracy, by_number.accuracy)
    np.testing.assert_allclose(by_place.loss, by_number.loss, atol=1e-6)
