"""A process that goes on with a run makes its model again: the same noise must meet the same model, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from federated.clients.store import ClientStore
from federated.contract import Array
from federated.driver.rounds import Rounds
from federated.privacy.plan import FederatedPlan
from privacy_pipeline.backends.simulation.federated_rounds import PipelineRounds
from privacy_pipeline.config.models.federated import FederatedAlgorithm
from privacy_pipeline.dp.graphs.tracing import Traced
from privacy_pipeline.dp.training.checkpoints import captured_digest, graph_digest
from privacy_pipeline.dp.training.run_state import StateMismatch, has_state
from privacy_pipeline.tasks.binary import BINARY
from tests.federated.silos.silo_checks import plan_of as silo_plan
from tests.federated.silos.silo_checks import records_of

L = tf.keras.layers
CLIENTS, ROWS = 20, 4
LARGE = (4, 64)  # a graph holds a smaller constant itself


class Hidden(L.Layer):  # type: ignore[misc]
    """A layer with a variable that Keras does not list."""

    def __init__(self, first: Array) -> None:
        super().__init__()
        held = tf.Variable(first, trainable=False)
        self._given = lambda: held

    def call(self, values: Any) -> Any:
        return tf.nn.relu(values @ self._given())


def model_of(kind: str, seed: int) -> Any:
    """A model whose first layer is random and not trained: as a frozen layer, a constant or a hidden variable."""
    tf.keras.utils.set_random_seed(seed)
    given, first = tf.keras.Input((4,), name="x"), np.random.default_rng(seed).normal(size=LARGE).astype(np.float32)
    if kind == "frozen":
        middle = L.Dense(8, activation="relu", trainable=False)(given)
    elif kind == "constant":
        constant = tf.constant(first)
        middle = L.Lambda(lambda values: tf.nn.relu(values @ constant))(given)
    else:
        middle = Hidden(first)(given)
    return tf.keras.Model(given, L.Dense(1)(middle))


def rounds_of(folder: Path, kind: str, *, seed: int, silos: bool = False) -> Rounds:
    rng = np.random.default_rng(0)
    common: dict[str, Any] = {
        "model": model_of(kind, seed),
        "algorithm": FederatedAlgorithm(),
        "seed": 1,  # the same key in both folders
        "state_dir": folder,
        "binding": "",
        "task": BINARY,
    }
    if silos:
        return PipelineRounds.of_silos(records=records_of(), plan=silo_plan(), **common).rounds
    x = rng.normal(size=(CLIENTS * ROWS, 4)).astype(np.float32)
    plan = FederatedPlan.calibrated(
        rounds=3, clients=CLIENTS, clients_per_round=8, delta=1e-5, clipping_norm=0.5, noise_multiplier=1.0
    )
    clients = ClientStore.from_arrays(
        keys_of_rows=np.arange(CLIENTS * ROWS) % CLIENTS,
        features={"x": x},
        labels=(x[:, :1] > 0).astype(np.float32),
    )
    return PipelineRounds.of_clients(clients=clients, cohorts=plan, plan=plan, **common).rounds


@pytest.mark.parametrize("silos", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["clients", "silos"])
def test_a_frozen_layer_has_the_values_that_the_run_began_with(tmp_path: Path, silos: bool) -> None:
    whole = rounds_of(tmp_path / "whole", "frozen", seed=1, silos=silos).run()
    rounds_of(tmp_path / "broken", "frozen", seed=1, silos=silos).begin()  # and is killed
    again = rounds_of(tmp_path / "broken", "frozen", seed=2, silos=silos)
    last = again.run()
    assert again.resumed_at == 0
    for one, other in zip((*whole.weights, *whole.non_trainable), (*last.weights, *last.non_trainable), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["constant", "variable"])
def test_what_no_checkpoint_holds_ends_the_key_where_it_differs(tmp_path: Path, kind: str) -> None:
    rounds_of(tmp_path / "state", kind, seed=1).begin()
    assert rounds_of(tmp_path / "state", kind, seed=1).begin().round_number == 0  # the same values: it goes on
    with pytest.raises(StateMismatch, match="plan, model, data"):
        rounds_of(tmp_path / "state", kind, seed=2)
    assert not has_state(tmp_path / "state")


def test_a_large_constant_counts_by_its_values() -> None:
    def graph(value: float) -> Any:
        held = tf.fill(LARGE, value)
        return Traced(lambda given: given @ held, tf.TensorSpec([None, 4])).concrete.graph

    assert graph_digest(graph(1.0)) == graph_digest(graph(2.0))
    assert captured_digest(graph(1.0)) == captured_digest(graph(1.0)) != captured_digest(graph(2.0))
