"""Clients and models of the federated engines' tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from federated.model import FederatedModel


@dataclass(frozen=True)
class MadeClients:
    features: dict
    labels: np.ndarray
    offsets: np.ndarray

    @property
    def num_clients(self) -> int:
        return len(self.offsets) - 1

    def examples_of(self, client: int):
        rows = slice(self.offsets[client], self.offsets[client + 1])
        return {name: value[rows] for name, value in self.features.items()}, self.labels[rows]


def made_clients(sizes, *, features=6, seed=0) -> MadeClients:
    random = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    x = random.normal(size=(offsets[-1], features)).astype(np.float32)
    labels = (x @ random.normal(size=features) + random.normal(size=offsets[-1]) > 0).astype(np.float32)
    return MadeClients({"x": x}, labels, offsets)


def dense_model(*, features=6, hidden=5, seed=3) -> FederatedModel:
    tf.keras.utils.set_random_seed(seed)
    inputs = tf.keras.Input((features,), name="x")
    middle = tf.keras.layers.Dense(hidden, activation="tanh")(inputs)
    outputs = tf.keras.layers.Dense(1, activation="sigmoid")(middle)
    return FederatedModel(tf.keras.Model(inputs, outputs), loss="binary_crossentropy")


def linear_model(*, features=6, seed=3) -> FederatedModel:
    tf.keras.utils.set_random_seed(seed)
    inputs = tf.keras.Input((features,), name="x")
    return FederatedModel(tf.keras.Model(inputs, tf.keras.layers.Dense(1)(inputs)), loss="mean_squared_error")
