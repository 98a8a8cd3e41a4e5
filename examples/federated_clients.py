"""Train by federated averaging with a guarantee for each client, on made-up clients, without a pipeline.

Everything that a client holds is protected: updates are clipped, and noise is added to their sum. An experiment
(`privacy-pipeline federated run`) does the same on files, charges a ledger, and draws curves.
"""

from __future__ import annotations

import argparse

import numpy as np
import tensorflow as tf

from federated.clients.store import ClientStore
from federated.contract import Engine
from federated.driver.protected import MakeAggregator, Secret, of_clients
from federated.fast.engine import FastEngine
from federated.model import FederatedModel
from federated.privacy.plan import FederatedPlan
from privacy_pipeline.config.models.federated import FederatedAlgorithm, OptimizerSection

CLIENTS, EXAMPLES, WIDTH = 400, 20, 8


def people() -> tuple[ClientStore, np.ndarray]:
    """Return the rows of all clients, and the direction that divides the classes."""
    random = np.random.default_rng(0)
    truth = random.normal(size=WIDTH)
    x = random.normal(size=(CLIENTS * EXAMPLES, WIDTH)).astype(np.float32)
    y = (x @ truth > 0).astype(np.int64)
    offsets = np.arange(0, len(x) + 1, EXAMPLES)
    keys = np.array([f"person {number:03}" for number in range(CLIENTS)])
    return ClientStore(features={"x": x}, labels=y, offsets=offsets, keys=keys), truth


def main() -> None:
    """Train, and print what is guaranteed and how good the model is."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--epsilon", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=60)
    asked = parser.parse_args()

    clients, truth = people()
    source = tf.keras.Input((WIDTH,), name="x")
    keras = tf.keras.Model(source, tf.keras.layers.Dense(1)(source))
    model = FederatedModel(keras, loss=tf.keras.losses.BinaryCrossentropy(from_logits=True))
    algorithm = FederatedAlgorithm(client_optimizer=OptimizerSection(learning_rate=0.1))
    plan = FederatedPlan.calibrated(
        clients=CLIENTS,
        clients_per_round=40.0,
        rounds=asked.rounds,
        epsilon=asked.epsilon,
        delta=1e-5,
        clipping_norm=0.5,
    )

    def engine(aggregator: MakeAggregator) -> Engine:
        return FastEngine(model=model, clients=clients, algorithm=algorithm, aggregator=aggregator(model.shapes))

    rounds = of_clients(
        plan=plan, secret=Secret.take(seed=None, state_dir=None, binding=str), clients=CLIENTS, engine=engine
    )
    state = rounds.run()
    weights = np.asarray(state.weights[0]).ravel()
    fresh = np.random.default_rng(1).normal(size=(10_000, WIDTH))
    accuracy = float(np.mean((fresh @ weights > 0) == (fresh @ truth > 0)))
    print(f"epsilon {plan.epsilon():.3f} at delta {plan.delta:g} for each client; {rounds.done} rounds")
    print(f"accuracy on new rows: {accuracy:.3f}")


if __name__ == "__main__":
    main()
