r"""Measure the seconds per round of one TensorFlow engine, in this process.

    python -m benchmarks.federated_engines \
        '{"engine": "fast", "model": "small", "clients": 1000, "cohort": 20, "seconds": 5}'

`tff` is stock TFF: its own context and its own FedAvg. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks.federated_shapes import (
    BATCH,
    CLASSES,
    DENSE,
    FEATURES,
    FILTERS,
    HIDDEN,
    IMAGE,
    LEARNING_RATE,
    ROWS,
    Task,
    cohorts,
    seconds_a_round,
    task,
)


def keras(model: str) -> Any:
    """Return the Keras model."""
    layers = tf.keras.layers
    if model == "small":
        given = [tf.keras.Input((FEATURES,)), layers.Dense(HIDDEN, "relu"), layers.Dense(1, "sigmoid")]
        return tf.keras.Sequential(given)
    given = [tf.keras.Input(IMAGE)]
    for filters in FILTERS:
        given += [layers.Conv2D(filters, 3, padding="same", activation="relu"), layers.MaxPooling2D()]
    return tf.keras.Sequential([*given, layers.Flatten(), layers.Dense(DENSE, "relu"), layers.Dense(CLASSES)])


def loss(model: str) -> Any:
    """Return the Keras loss."""
    losses = tf.keras.losses
    return losses.BinaryCrossentropy() if model == "small" else losses.SparseCategoricalCrossentropy(from_logits=True)


class Made:
    """The clients, as the fast engine needs them."""

    def __init__(self, given: Task) -> None:
        self.features, self.labels = {"x": given.x}, given.y
        self.num_clients = given.clients
        self.offsets = np.arange(given.clients + 1, dtype=np.int64) * ROWS

    def examples_of(self, client: int) -> Any:
        """Return features and labels of one client."""
        rows = slice(self.offsets[client], self.offsets[client + 1])
        return {"x": self.features["x"][rows]}, self.labels[rows]


def fast(model: str, given: Task, cohort: int, seconds: float) -> list[float]:
    """Return the engine of this project."""
    from federated.fast.engine import FastEngine
    from federated.model import FederatedModel
    from privacy_pipeline.config.models.federated import FederatedAlgorithm, OptimizerSection

    algorithm = FederatedAlgorithm(batch_size=BATCH, client_optimizer=OptimizerSection(learning_rate=LEARNING_RATE))
    engine = FastEngine(model=FederatedModel(keras(model), loss=loss(model)), clients=Made(given), algorithm=algorithm)
    state, choose = engine.initial_state(), cohorts(given.clients, cohort)

    def run(number: int) -> None:
        nonlocal state
        state = engine.run_round(state, choose(number)).state

    return seconds_a_round(run, seconds=seconds)


def tff(model: str, given: Task, cohort: int, seconds: float) -> list[float]:
    """Return stock TensorFlow Federated."""
    import tensorflow_federated as stock

    stock.backends.native.set_sync_local_cpp_execution_context()
    specs = (tf.TensorSpec([None, *given.x.shape[1:]]), tf.TensorSpec([None]))
    process = stock.learning.algorithms.build_weighted_fed_avg(
        lambda: stock.learning.models.from_keras_model(keras(model), loss=loss(model), input_spec=specs),
        client_optimizer_fn=stock.learning.optimizers.build_sgdm(LEARNING_RATE),
        server_optimizer_fn=stock.learning.optimizers.build_sgdm(1.0),
    )
    state, choose = process.initialize(), cohorts(given.clients, cohort)

    def data(client: int) -> Any:
        rows = given.rows(client)
        return tf.data.Dataset.from_tensor_slices((given.x[rows], given.y[rows])).batch(BATCH)

    def run(number: int) -> None:
        nonlocal state
        state = process.next(state, [data(client) for client in choose(number)]).state

    return seconds_a_round(run, seconds=seconds)


def main() -> None:
    given = json.loads(sys.argv[1])
    made = task(given["model"], given["clients"])
    run = {"fast": fast, "tff": tff}[given["engine"]]
    times = run(given["model"], made, given["cohort"], given["seconds"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row = {"seconds": min(times), "median": float(np.median(times)), "rounds": len(times), "peak_bytes": peak}
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
