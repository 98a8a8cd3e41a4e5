"""No state leaves a client but through its update, and rows of two clients never meet."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from federated.clients.store import ClientStore
from federated.evaluation import Evaluator
from federated.fast.engine import FastEngine
from federated.fast.gradients import StackedGradients
from federated.fast.proof import clients_apart
from federated.model import FederatedModel, label_spec
from federated.privacy.gaussian import GaussianAggregator
from federated.privacy.plan import FederatedPlan
from federated.tff_engine.engine import TffEngine
from federated.tff_engine.worker import TffWorker
from privacy_pipeline.config.models.federated import FederatedAlgorithm, OptimizerSection
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.rowwise.proof import Proof
from privacy_pipeline.errors import BadInputError, PipelineError
from tests.federated.fed_examples import made_clients

L = tf.keras.layers
SIZES = [4] * 12
ALGORITHM = FederatedAlgorithm(batch_size=4)


def made(*layers: Any, loss: Any = "mean_squared_error", dtype: Any = tf.float32) -> FederatedModel:
    tf.keras.utils.set_random_seed(0)
    inputs = tf.keras.Input((6,), name="x", dtype=dtype)
    middle = inputs
    for layer in (*layers, L.Flatten(), L.Dense(1)):
        middle = layer(middle)
    return FederatedModel(tf.keras.Model(inputs, middle), loss=loss)


def adapted(layer: Any) -> Any:
    layer.adapt(np.arange(12.0).reshape(2, 6))
    return layer


class Table(L.Layer):
    """Holds a table that anything can fill."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tables = {"rows": tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, 0)}


REFUSED = {
    "BatchNormalization": lambda: L.BatchNormalization(name="guilty"),
    "Normalization": lambda: adapted(L.Normalization(name="guilty")),
    "Discretization": lambda: adapted(L.Discretization(num_bins=2, name="guilty")),
    "SpectralNormalization": lambda: L.SpectralNormalization(L.Dense(2), name="guilty"),
    "Table": lambda: Table(name="guilty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_layers_with_state_are_refused_before_any_engine(name: str) -> None:
    with pytest.raises(BadInputError, match="layer 'guilty'") as error:
        made(REFUSED[name]())
    assert error.value.fix


def test_a_recurrent_layer_that_remembers_is_refused() -> None:
    inputs = tf.keras.Input(batch_shape=(4, 3, 2), name="x")
    outputs = L.Dense(1)(L.LSTM(2, stateful=True, name="guilty")(inputs))
    with pytest.raises(BadInputError, match=r"layer 'guilty'.*batch to batch"):
        FederatedModel(tf.keras.Model(inputs, outputs), loss="mean_squared_error")


class Counting(L.Layer):
    """Adds up what it sees, in a variable that it keeps from Keras."""

    seen = tf.Variable(0.0)

    def call(self, x: Any) -> Any:
        with tf.control_dependencies([self.seen.assign_add(tf.reduce_sum(x))]):
            return tf.identity(x)


def keeping(labels: Any, predictions: Any) -> Any:
    """A loss that adds up what it sees."""
    with tf.control_dependencies([Counting.seen.assign_add(tf.reduce_sum(predictions))]):
        return tf.reduce_mean(tf.square(labels - predictions), -1)


def drawing(labels: Any, predictions: Any) -> Any:
    """A loss that draws."""
    return tf.reduce_mean(tf.square(labels - predictions), -1) * tf.random.uniform([])


def private(model: FederatedModel, cls: Any = GaussianAggregator) -> GaussianAggregator:
    plan = FederatedPlan.calibrated(
        rounds=3, clients_per_round=12, delta=1e-3, clipping_norm=1.0, clients=12, epsilon=1.0
    )
    return cls(plan=plan, key=RunKey.from_seed(1), shapes=model.shapes)


def fast(model: FederatedModel) -> Any:
    return FastEngine(model=model, clients=made_clients(SIZES), algorithm=ALGORITHM)


def noised(model: FederatedModel) -> Any:
    return FastEngine(model=model, clients=made_clients(SIZES), algorithm=ALGORITHM, aggregator=private(model))


def on_tff(model: FederatedModel) -> Any:
    return TffEngine(model=model, clients=made_clients(SIZES), algorithm=ALGORITHM, worker=TffWorker())


@pytest.mark.slow_but("layer-fast", "layer-on_tff", "loss-fast", "loss-on_tff", "draws-fast", "draws-on_tff")
@pytest.mark.parametrize("engine", [fast, noised, on_tff])
@pytest.mark.parametrize(
    ("layers", "loss", "message"),
    [
        ([Counting], "mean_squared_error", r"layer 'counting.*assigns variables"),
        ([], keeping, "AssignAddVariableOp"),
        ([], drawing, "RandomUniform"),
    ],
    ids=["layer", "loss", "draws"],
)
def test_a_pass_that_keeps_or_draws_is_refused_by_every_engine(
    engine: Any, layers: list[Any], loss: Any, message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        engine(made(*(layer() for layer in layers), loss=loss))


def frozen() -> Any:
    layer = L.BatchNormalization(trainable=False, name="still")
    layer.build([None, 6])
    layer.set_weights([np.full(6, value, np.float32) for value in (2.0, 0.5, 0.25, 4.0)])
    return layer


def same(first: Any, second: Any) -> bool:
    return len(first) == len(second) > 0 and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.slow_but("fast")
@pytest.mark.parametrize("engine", [fast, noised])
def test_frozen_statistics_stay_and_are_evaluated_with(engine: Any) -> None:
    model = made(frozen())
    first = model.non_trainable()
    trainer = engine(model)
    state = trainer.initial_state()
    for _ in range(2):
        state = trainer.run_round(state, np.arange(12)).state
    assert same(first, model.non_trainable())
    assert same(first, state.non_trainable)
    clients = made_clients(SIZES)
    metrics = Evaluator(model, clients).evaluate(state.weights)
    scaled = (clients.features["x"] - 0.25) / np.sqrt(4.0 + 1e-3) * 2.0 + 0.5
    predictions = scaled @ state.weights[0] + state.weights[1]
    losses = np.square(predictions[:, 0] - clients.labels).reshape(12, 4).mean(1)
    np.testing.assert_allclose(metrics.loss, losses, atol=1e-5)


@pytest.mark.slow
def test_frozen_statistics_stay_on_tff() -> None:
    model = made(frozen())
    first = model.non_trainable()
    ours = fast(model)
    mine = ours.run_round(ours.initial_state(), np.arange(12)).state
    model = made(frozen())
    with TffWorker(timeout=120) as worker:
        engine = TffEngine(model=model, clients=made_clients(SIZES), algorithm=ALGORITHM, worker=worker)
        state = engine.run_round(engine.initial_state(), np.arange(12)).state
    assert same(first, state.non_trainable)
    for a, b in zip(mine.weights, state.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_normalised_client_cannot_be_told_from_the_statistics() -> None:
    """The evidence's attack: the last client's rows were in the moving mean, with a guarantee and without."""
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    x[180:] = 100.0
    keys = np.repeat(np.arange(10), 20)
    store = ClientStore.from_arrays(keys_of_rows=keys, features={"x": x}, labels=(x[:, 0] > 0).astype(np.float32))
    inputs = tf.keras.Input((3,), name="x")
    loss = tf.keras.losses.BinaryCrossentropy(from_logits=True)
    moving = tf.keras.Model(inputs, L.Dense(1)(L.BatchNormalization()(inputs)))
    with pytest.raises(BadInputError, match=r"BatchNormalization.*statistics") as error:
        FederatedModel(moving, loss=loss)
    assert "GroupNormalization" in error.value.fix
    instead = FederatedModel(tf.keras.Model(inputs, L.Dense(1)(L.LayerNormalization()(inputs))), loss=loss)
    engine = FastEngine(model=instead, clients=store, algorithm=FederatedAlgorithm(batch_size=20))
    assert np.isfinite(engine.run_round(engine.initial_state(), np.arange(10)).metrics["loss"])


def balanced(labels: Any, predictions: Any) -> Any:
    """Weighs each class by how rare it is in the batch."""
    share = tf.reduce_mean(labels)
    weights = tf.where(labels > 0.5, 1 / (share + 0.01), 1 / (1.01 - share))
    return tf.reduce_mean(weights * tf.square(labels - predictions), -1)


def scaled(labels: Any, predictions: Any) -> Any:
    """Measures labels by the largest of the batch."""
    targets = 10 * (1 + labels) / tf.reduce_max(1 + labels)
    return tf.reduce_mean(tf.square(targets - predictions), -1)


class Summing(GaussianAggregator):
    """Keeps the clipped sum of a round, which the noise covers."""

    total: Any = None

    def finish(self, state: Any, sums: Any, round_number: int) -> Any:
        self.total = np.concatenate([np.asarray(part).ravel() for part in sums])
        return super().finish(state, sums, round_number)


def moved_by_one_client(loss: Any, *layers: Any) -> float:
    """How far the clipped sum of a round moves when the last client's rows and labels are others."""
    totals = []
    for turned in (False, True):
        clients = made_clients(SIZES, seed=5)
        clients.labels[:] = np.arange(len(clients.labels)) % 3 == 0
        if turned:
            clients.features["x"][-4:] *= -9.0
            clients.labels[-4:] = 1000.0
        model = made(*(layer() for layer in layers), loss=loss)
        aggregator = private(model, Summing)
        steps = FederatedAlgorithm(batch_size=4, client_optimizer=OptimizerSection(learning_rate=1.0))
        engine = FastEngine(model=model, clients=clients, algorithm=steps, aggregator=aggregator)
        engine.run_round(engine.initial_state(), np.arange(12))
        totals.append(aggregator.total)
    return float(np.linalg.norm(totals[0] - totals[1]))


def centred(x: Any) -> Any:
    return x - tf.reduce_mean(x, 0, keepdims=True)


MIXING = {
    "balanced": (balanced, []),
    "scaled": (scaled, []),
    "hinge": ("hinge", []),
    "activation": ("mean_squared_error", [lambda: L.Dense(4, activation=centred)]),
    "layer": ("mean_squared_error", [lambda: L.Lambda(centred)]),
    "softmax": ("mean_squared_error", [lambda: L.Softmax(axis=0)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_rows_of_a_client_does_not_mix_clients(name: str) -> None:
    loss, layers = MIXING[name]
    assert not fast(made(*(layer() for layer in layers), loss=loss)).stacked
    assert moved_by_one_client(loss, *layers) <= 2.0 + 1e-5


@pytest.mark.slow
def test_stacked_a_mixing_loss_would_break_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federated.fast.engine.clients_apart", lambda *_, **__: Proof((), 0))
    assert fast(made(loss=scaled)).stacked
    assert moved_by_one_client(scaled) > 4.0


def own_error(labels: Any, predictions: Any) -> Any:
    """A loss of a user's that keeps rows apart."""
    return tf.reduce_mean(tf.abs(labels - predictions) ** 1.5, -1)


def branching(labels: Any, predictions: Any) -> Any:
    """A loss with Python's branch on a tensor: AutoGraph has to see it."""
    if tf.reduce_max(predictions) > 0.0:
        return tf.reduce_mean(tf.square(labels - predictions), -1)
    return tf.reduce_mean(tf.abs(labels - predictions), -1)


STACKED = {
    "named": ("mse", []),
    "object": (tf.keras.losses.BinaryCrossentropy(from_logits=True), []),
    "subclass": (type("Own", (tf.keras.losses.MeanSquaredError,), {})(), []),
    "own loss": (own_error, []),
    "own activation": ("mse", [lambda: L.Dense(4, activation=lambda x: x * tf.sigmoid(1.5 * x))]),
    "softmax": ("mse", [lambda: L.Dense(4, activation="softmax")]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STACKED)
def test_clients_that_are_proven_to_stay_apart_are_stacked(name: str) -> None:
    loss, layers = STACKED[name]
    assert fast(made(*(layer() for layer in layers), loss=loss)).stacked
    assert moved_by_one_client(loss, *layers) <= 2.0 + 1e-5


# Not `Hinge` and `SquaredHinge`: how they take labels depends on all rows of a batch.
ROW_WISE = (
    *("BinaryCrossentropy", "BinaryFocalCrossentropy", "CategoricalCrossentropy", "CategoricalFocalCrossentropy"),
    *("CategoricalHinge", "Huber", "KLDivergence", "LogCosh", "MeanAbsoluteError", "MeanAbsolutePercentageError"),
    *("MeanSquaredError", "MeanSquaredLogarithmicError", "Poisson", "SparseCategoricalCrossentropy"),
)


@pytest.mark.slow_but(
    "BinaryCrossentropy",
    "CategoricalFocalCrossentropy",
    "Huber",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "SparseCategoricalCrossentropy",
)
@pytest.mark.parametrize("kind", ROW_WISE)
def test_keras_row_wise_losses_are_proven(kind: str) -> None:
    model = FederatedModel(
        tf.keras.Sequential([tf.keras.Input((4,)), L.Dense(3, "softmax")]), loss=getattr(tf.keras.losses, kind)()
    )
    labels = np.zeros(1, np.int64) if kind.startswith("Sparse") else np.zeros((1, 3), np.float32)
    proof = clients_apart(model, label_spec(labels), batch_size=2)
    assert proof is not None and proof.proven


@pytest.mark.parametrize("loss", [tf.keras.losses.CategoricalCrossentropy(axis=0), branching], ids=["axis 0", "branch"])
def test_losses_over_rows_are_not_stacked(loss: Any) -> None:
    assert not fast(made(loss=loss)).stacked


def test_a_client_with_ids_outside_of_the_table_moves_no_other_client() -> None:
    """TensorFlow's own gradient of a batched gather counts such an id into the next client's table."""

    def update(last: int) -> Any:
        tf.keras.utils.set_random_seed(0)
        model = FederatedModel(
            tf.keras.Sequential([tf.keras.Input((), dtype=tf.int32), L.Embedding(5, 3), L.Dense(1)]), loss="mse"
        )
        proof = clients_apart(model, label_spec(np.zeros(1, np.float32)), batch_size=2)
        assert proof is not None and proof.proven
        weights = [tf.stack([tf.constant(w)] * 2) for w in model.weights()]
        ids = tf.constant([[last, 1], [0, 1]])
        gradients, losses = StackedGradients(model)(weights, [ids], tf.ones([2, 2]), tf.ones([2, 2]))
        return [np.asarray(g)[1] for g in gradients] + [losses[1].numpy()]

    for one, other in zip(update(2), update(7), strict=True):
        np.testing.assert_array_equal(one, other)


def own_loss(labels: Any, outputs: Any) -> Any:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs)


def of_classes(loss: Any, *, wrong: int) -> FastEngine:
    """Clients one of whose labels is `wrong`."""
    tf.keras.utils.set_random_seed(0)
    given = tf.keras.Input((6,), name="x")
    model = FederatedModel(tf.keras.Model(given, L.Dense(3)(given)), loss=loss)
    clients = made_clients(SIZES, seed=5)
    labels = np.arange(len(clients.labels)) % 3
    labels[5] = wrong
    clients = dataclasses.replace(clients, labels=labels)
    return FastEngine(model=model, clients=clients, algorithm=ALGORITHM, aggregator=private(model))


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        tf.keras.losses.sparse_categorical_crossentropy,
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    ],
    ids=["name", "function", "object"],
)
def test_a_label_that_is_no_class_counts_as_nothing(loss: Any) -> None:
    rounds = []
    for wrong in (9173, -4):
        engine = of_classes(loss, wrong=wrong)
        rounds.append(engine.run_round(engine.initial_state(), np.arange(12)).state.weights)
    for one, other in zip(*rounds, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, other)


def test_an_error_of_a_round_shows_no_value() -> None:
    engine = of_classes(own_loss, wrong=9173)
    with pytest.raises(PipelineError, match="kept back") as caught:
        engine.run_round(engine.initial_state(), np.arange(12))
    error: BaseException | None = caught.value
    while error is not None:
        assert "9173" not in str(error)
        error = error.__cause__ or error.__context__
