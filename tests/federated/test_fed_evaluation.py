import numpy as np
import pytest

from federated.evaluation import Evaluator, personalize
from federated.fast.engine import FastEngine
from privacy_pipeline.config.models.federated import FederatedAlgorithm, OptimizerSection
from privacy_pipeline.errors import BadInputError
from tests.federated.fed_examples import MadeClients, dense_model, made_clients

SIZES = [7, 1, 12, 0, 4, 9]


def test_metrics_of_each_client_are_those_of_keras():
    clients, model = made_clients(SIZES), dense_model()
    metrics = Evaluator(model, clients).evaluate(model.weights())
    assert metrics.clients.tolist() == [0, 1, 2, 4, 5]
    model.keras.compile(loss="binary_crossentropy", metrics=["accuracy"])
    for i, client in enumerate(metrics.clients):
        features, labels = clients.examples_of(client)
        loss, accuracy = model.keras.evaluate(features["x"], labels, verbose=0)
        assert (metrics.loss[i], metrics.accuracy[i]) == (pytest.approx(loss, abs=1e-5), pytest.approx(accuracy))


def test_the_summary_shows_the_spread_and_both_means():
    clients, model = made_clients(SIZES), dense_model()
    metrics = Evaluator(model, clients).evaluate(model.weights(), np.array([5, 0]))
    summary = metrics.summary()["accuracy"]
    assert metrics.clients.tolist() == [5, 0]
    assert summary["mean"] == pytest.approx(metrics.accuracy.mean())
    assert summary["mean_by_examples"] == pytest.approx((9 * metrics.accuracy[0] + 7 * metrics.accuracy[1]) / 16)
    assert (summary["q00"], summary["q100"]) == (metrics.accuracy.min(), metrics.accuracy.max())


def opposed_clients():
    """Half of the clients have all labels turned round, so no common model fits."""
    clients = made_clients([60] * 8)
    labels = (clients.features["x"][:, 0] > 0).astype(np.float32)
    turned = np.repeat(np.arange(8) % 2 == 1, 60)
    return MadeClients(clients.features, np.where(turned, 1 - labels, labels).astype(np.float32), clients.offsets)


def test_fine_tuning_helps_clients_that_no_common_model_fits():
    clients, model = opposed_clients(), dense_model()
    algorithm = FederatedAlgorithm(batch_size=10, local_epochs=30, client_optimizer=OptimizerSection(learning_rate=0.5))
    state = FastEngine(model=model, clients=clients, algorithm=algorithm).initial_state()
    result = personalize(model=model, clients=clients, algorithm=algorithm, state=state, chosen=np.arange(8)).summary()
    assert result["before"]["accuracy"]["mean"] < 0.65
    assert result["after"]["accuracy"]["mean"] > 0.8
    assert result["gain"]["mean"] == pytest.approx(
        result["after"]["accuracy"]["mean"] - result["before"]["accuracy"]["mean"], abs=1e-6
    )


def test_bad_input():
    clients, model = made_clients([1, 0, 1]), dense_model()
    with pytest.raises(BadInputError, match="no client has examples"):
        Evaluator(model, clients).evaluate(model.weights(), np.array([1]))
    algorithm = FederatedAlgorithm()
    state = FastEngine(model=model, clients=clients, algorithm=algorithm).initial_state()
    with pytest.raises(BadInputError, match="two examples"):
        personalize(model=model, clients=clients, algorithm=algorithm, state=state, chosen=np.arange(3))
    with pytest.raises(BadInputError, match="no local training"):
        personalize(
            model=model,
            clients=clients,
            algorithm=FederatedAlgorithm(name="fedsgd"),
            state=state,
            chosen=np.arange(3),
        )
