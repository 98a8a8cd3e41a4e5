import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from federated.fast.engine import FastEngine
from federated.model import FederatedModel
from privacy_pipeline.config.models.federated import FederatedAlgorithm, OptimizerSection
from privacy_pipeline.errors import BadInputError
from tests.federated.fed_examples import dense_model, linear_model, made_clients

SIZES = [7, 1, 12, 0, 4, 33, 9, 4, 100]
EVERYONE = np.arange(len(SIZES))
ALGORITHMS = {
    "fedavg": FederatedAlgorithm(batch_size=4),
    "two epochs": FederatedAlgorithm(batch_size=4, local_epochs=2),
    "uniform": FederatedAlgorithm(batch_size=4, weighting="uniform"),
    "fedsgd": FederatedAlgorithm(name="fedsgd", batch_size=4),
    "fedprox": FederatedAlgorithm(name="fedprox", batch_size=4, proximal_strength=0.7, local_epochs=2),
    "mimelite": FederatedAlgorithm(
        name="mimelite", batch_size=4, client_optimizer=OptimizerSection(learning_rate=0.1, momentum=0.9)
    ),
    "local adam": FederatedAlgorithm(
        batch_size=4, local_epochs=2, client_optimizer=OptimizerSection(name="adam", learning_rate=0.01)
    ),
}


def linear_by_hand(clients, algorithm, kernel, bias, rounds, cohort):
    """Least squares in plain NumPy, float64: FedAvg, FedProx and FedSGD with SGD."""
    kernel, bias = kernel.astype(np.float64), bias.astype(np.float64)
    mu = algorithm.proximal_strength or 0.0
    for _ in range(rounds):
        changes, weights = [], []
        for client in cohort:
            features, labels = clients.examples_of(client)
            x = features["x"].astype(np.float64)
            w, b = kernel.copy(), bias.copy()
            size = len(x) if algorithm.name == "fedsgd" else algorithm.batch_size
            for _ in range(algorithm.local_epochs):
                for start in range(0, len(x), max(1, size)):
                    xs, ys = x[start : start + size], labels[start : start + size, np.newaxis]
                    error = 2 * (xs @ w + b - ys) / len(xs)
                    rate = 1.0 if algorithm.name == "fedsgd" else algorithm.client_optimizer.learning_rate
                    step_w, step_b = xs.T @ error + mu * (w - kernel), error.sum(0) + mu * (b - bias)
                    w, b = w - rate * step_w, b - rate * step_b
            changes.append((w - kernel, b - bias))
            weights.append(len(x) if algorithm.weighting == "examples" else 1)
        rate = algorithm.server_optimizer.learning_rate
        kernel = kernel + rate * sum(n * c[0] for n, c in zip(weights, changes)) / sum(weights)
        bias = bias + rate * sum(n * c[1] for n, c in zip(weights, changes)) / sum(weights)
    return kernel, bias


def trained(model, clients, algorithm, *, rounds=10, cohort=EVERYONE, **options):
    engine = FastEngine(model=model, clients=clients, algorithm=algorithm, **options)
    state = engine.initial_state()
    for _ in range(rounds):
        state = engine.run_round(state, cohort).state
    return state


@pytest.mark.slow_but("fedavg", "fedprox")
@pytest.mark.parametrize("name", ["fedavg", "two epochs", "uniform", "fedsgd", "fedprox"])
def test_plain_numpy_gives_the_same_weights(name):
    algorithm = ALGORITHMS[name].model_copy(
        update={"server_optimizer": OptimizerSection(learning_rate=0.05 if name == "fedsgd" else 0.8)}
    )
    if name != "fedsgd":
        algorithm = algorithm.model_copy(update={"client_optimizer": OptimizerSection(learning_rate=0.03)})
    clients, model = made_clients(SIZES), linear_model()
    kernel, bias = linear_by_hand(clients, algorithm, *model.weights(), 10, EVERYONE)
    state = trained(model, clients, algorithm)
    np.testing.assert_allclose(state.weights[0], kernel, atol=1e-5)
    np.testing.assert_allclose(state.weights[1], bias, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [n if n in ("mimelite", "local adam") else pytest.param(n, marks=pytest.mark.slow) for n in ALGORITHMS],
)
def test_stacked_and_one_by_one_agree(name):
    clients = made_clients(SIZES)
    stacked = trained(dense_model(), clients, ALGORITHMS[name], stacked=True)
    alone = trained(dense_model(), clients, ALGORITHMS[name], stacked=False)
    for a, b in zip(stacked.weights, alone.weights):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert stacked.server.keys() == alone.server.keys()
    assert not np.allclose(stacked.weights[0], dense_model().weights()[0], atol=1e-3)


@pytest.mark.slow
def test_repeats_bit_by_bit_and_goes_on_from_a_saved_state():
    clients = made_clients(SIZES)
    whole = trained(dense_model(), clients, ALGORITHMS["mimelite"], rounds=4)
    half = trained(dense_model(), clients, ALGORITHMS["mimelite"], rounds=2)
    engine = FastEngine(model=dense_model(seed=8), clients=clients, algorithm=ALGORITHMS["mimelite"])
    copied = dataclasses.replace(half, weights=tuple(np.array(w) for w in half.weights))
    for _ in range(2):
        copied = engine.run_round(copied, EVERYONE).state
    assert copied.round_number == 4
    for a, b in zip(whole.weights, copied.weights):
        np.testing.assert_array_equal(a, b)


def test_an_empty_cohort_and_one_that_drops_out_change_nothing():
    engine = FastEngine(model=dense_model(), clients=made_clients(SIZES), algorithm=ALGORITHMS["fedavg"])
    state = engine.initial_state()
    nobody = engine.run_round(state, np.array([], np.int64))
    gone = engine.run_round(state, EVERYONE, present=np.zeros(len(SIZES), bool))
    for result in (nobody, gone):
        assert (result.clients, result.bytes_up) == (0, 0)
        for a, b in zip(state.weights, result.state.weights):
            np.testing.assert_array_equal(a, b)


def test_a_client_that_drops_out_is_as_if_not_there():
    clients = made_clients(SIZES)
    engine = FastEngine(model=dense_model(), clients=clients, algorithm=ALGORITHMS["fedavg"])
    state = engine.initial_state()
    present = EVERYONE != 5
    dropped = engine.run_round(state, EVERYONE, present=present)
    without = engine.run_round(state, EVERYONE[present])
    assert dropped.clients == without.clients == len(SIZES) - 1
    assert dropped.bytes_down > without.bytes_down
    for a, b in zip(dropped.state.weights, without.state.weights):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_client_whose_update_is_not_finite_does_not_count():
    clients = made_clients(SIZES)
    clients.features["x"][clients.offsets[2]] = np.inf
    engine = FastEngine(model=linear_model(), clients=clients, algorithm=ALGORITHMS["fedavg"])
    state = engine.initial_state()
    result, without = engine.run_round(state, EVERYONE), engine.run_round(state, EVERYONE[EVERYONE != 2])
    assert result.clients == len(SIZES) - 1
    np.testing.assert_allclose(result.state.weights[0], without.state.weights[0], atol=1e-6)


def embedding_model():
    tf.keras.utils.set_random_seed(1)
    word = tf.keras.Input((), name="word", dtype="int32")
    x = tf.keras.Input((6,), name="x")
    both = tf.keras.layers.Concatenate()([tf.keras.layers.Embedding(9, 4)(word), x])
    return FederatedModel(
        tf.keras.Model([word, x], tf.keras.layers.Dense(3)(both)),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


def test_embeddings_and_classes_agree_one_by_one():
    clients = made_clients(SIZES)
    random = np.random.default_rng(4)
    clients.features["word"] = random.integers(0, 9, len(clients.labels))
    clients = dataclasses.replace(clients, labels=random.integers(0, 3, len(clients.labels)))
    stacked = trained(embedding_model(), clients, ALGORITHMS["fedavg"], stacked=True)
    alone = trained(embedding_model(), clients, ALGORITHMS["fedavg"], stacked=False)
    for a, b in zip(stacked.weights, alone.weights):
        np.testing.assert_allclose(a, b, atol=1e-5)


def centring_model():
    tf.keras.utils.set_random_seed(1)
    inputs = tf.keras.Input((6,), name="x")
    middle = tf.keras.layers.Lambda(lambda x: x - tf.reduce_mean(x, 0, keepdims=True))(inputs)
    return FederatedModel(tf.keras.Model(inputs, tf.keras.layers.Dense(1)(middle)), loss="mean_squared_error")


def test_a_layer_that_mixes_rows_is_not_stacked():
    engine = FastEngine(model=centring_model(), clients=made_clients(SIZES), algorithm=ALGORITHMS["fedavg"])
    assert not engine.stacked
    assert np.isfinite(engine.run_round(engine.initial_state(), EVERYONE).metrics["loss"])
    with pytest.raises(BadInputError, match="stacked"):
        FastEngine(model=centring_model(), clients=made_clients(SIZES), algorithm=ALGORITHMS["fedavg"], stacked=True)


def test_bad_input_is_one_clear_error():
    clients = made_clients(SIZES)
    engine = FastEngine(model=dense_model(), clients=clients, algorithm=ALGORITHMS["fedavg"])
    with pytest.raises(BadInputError, match="does not exist"):
        engine.run_round(engine.initial_state(), np.array([len(SIZES)]))
    with pytest.raises(BadInputError, match=r"shape \[6\]"):
        FastEngine(model=dense_model(features=4), clients=clients, algorithm=ALGORITHMS["fedavg"])
    with pytest.raises(BadInputError, match="full gradients"):
        FastEngine(model=dense_model(), clients=clients, algorithm=ALGORITHMS["mimelite"], aggregator=object())
    random = tf.keras.Sequential([tf.keras.Input((6,)), tf.keras.layers.Dropout(0.5), tf.keras.layers.Dense(1)])
    with pytest.raises(BadInputError, match="random"):
        FederatedModel(random, loss="mean_squared_error")


def convolution_model():
    tf.keras.utils.set_random_seed(1)
    layers = tf.keras.layers
    stack = [
        tf.keras.Input((6,), name="x"),
        layers.Reshape((3, 2, 1)),
        layers.Conv2D(2, 2, padding="same", activation="relu"),
        layers.Flatten(),
        layers.Dense(1),
    ]
    return FederatedModel(tf.keras.Sequential(stack), loss="mean_squared_error")


@pytest.mark.slow
def test_clients_that_overlap_agree_with_one_by_one():
    clients = made_clients(SIZES)
    overlapping = trained(convolution_model(), clients, ALGORITHMS["fedprox"], rounds=3)
    alone = trained(convolution_model(), clients, ALGORITHMS["fedprox"], rounds=3, stacked=False)
    for a, b in zip(overlapping.weights, alone.weights):
        np.testing.assert_allclose(a, b, atol=1e-5)
