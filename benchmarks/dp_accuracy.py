"""How accurate is DP-SGD with the defaults, on Adult and on MNIST-5k, beside training without privacy?

    python benchmarks/dp_accuracy.py --seeds 5

Each dataset and epsilon is trained from scratch once a seed with this package's engine, at the defaults of the `dp_sgd`
backend (Poisson batches of an eighth of the data, 30 expected epochs, Adam at 0.01, clipping norm 0.3), delta 1e-5,
unit example, zero-out. The baselines are plain Keras: Adult as in configs/adult_plain.yaml, MNIST-5k with the same
network. Seeds are fixed so that the table can be reproduced, which is fine on public data and voids the guarantee on
any other data. Prints the table and writes benchmarks/results/dp_accuracy.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from accuracy_data import Data, adult, mnist_5k

from privacy_pipeline.config.models.dp import DP_DEFAULTS
from privacy_pipeline.dp import PrivacyPlan, make_private

EPSILONS = (1.0, 3.0, 8.0)
DELTA = 1e-5
RESULTS = Path(__file__).parent / "results" / "dp_accuracy.json"
_Layers = tf.keras.layers


def tabular(width: int, *, dropout: float) -> Any:
    """Return the network of `model.use: tabular` at its default widths."""
    layers: list[Any] = [_Layers.Input((width,))]
    for units in (64, 32):
        layers += [_Layers.Dense(units, activation="relu"), _Layers.Dropout(dropout)]
    return tf.keras.Sequential([*layers, _Layers.Dense(1)])


def tutorial_cnn() -> Any:
    """TensorFlow Privacy's tutorial network, with tanh (Papernot et al. 2020, arXiv 2007.14191)."""
    return tf.keras.Sequential(
        [
            _Layers.Conv2D(16, 8, strides=2, padding="same", activation="tanh", input_shape=(28, 28, 1)),
            _Layers.MaxPool2D(2, 1),
            _Layers.Conv2D(32, 4, strides=2, activation="tanh"),
            _Layers.MaxPool2D(2, 1),
            _Layers.Flatten(),
            _Layers.Dense(32, activation="tanh"),
            _Layers.Dense(10),
        ]
    )


class Task:
    """A dataset with its network, loss and way to read off classes."""

    def __init__(self, data: Data, make: Callable[[bool], Any], loss: Any, *, epochs: int, batch: int) -> None:
        self.data = data
        self._make = make
        self._loss = loss
        self._plain = {"epochs": epochs, "batch_size": batch}

    def accuracy(self, model: Any) -> float:
        """Return the share of test rows with the right class."""
        logits = model.predict(self.data.test_x, batch_size=4096, verbose=0)
        guess = logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(axis=1)
        return float(np.mean(guess == self.data.test_y))

    def trained(self, seed: int) -> Any:
        """Return a model trained without privacy."""
        tf.keras.utils.set_random_seed(seed)
        model = self._make(False)
        model.compile(tf.keras.optimizers.Adam(1e-3), self._loss)
        model.fit(self.data.x, self.data.y, verbose=0, **self._plain)
        return model

    def plain(self, seed: int) -> float:
        """Return the accuracy without privacy."""
        return self.accuracy(self.trained(seed))

    def privately(self, seed: int, plan: PrivacyPlan, *, learning_rate: float = DP_DEFAULTS.learning_rate) -> Any:
        """Return a model trained under a plan."""
        tf.keras.utils.set_random_seed(seed)
        model = self._make(True)
        optimizer = tf.keras.optimizers.Adam(learning_rate)
        make_private(model, plan, optimizer=optimizer, loss=self._loss, seed=seed).fit(self.data.x, self.data.y)
        return model

    def private(self, seed: int, plan: PrivacyPlan) -> float:
        """Return the accuracy under a plan."""
        return self.accuracy(self.privately(seed, plan))

    def plan(self, epsilon: float, *, clipping_norm: float = DP_DEFAULTS.clipping_norm) -> PrivacyPlan:
        """Return the plan of the backend's defaults for a target epsilon."""
        units = len(self.data.y)
        return PrivacyPlan.calibrated(
            units=units,
            expected_batch_size=DP_DEFAULTS.batch_size(units),
            epochs=DP_DEFAULTS.epochs,
            epsilon=epsilon,
            delta=DELTA,
            clipping_norm=clipping_norm,
        )


def tasks() -> dict[str, Task]:
    """Return the datasets by their names in the table."""
    people, digits = adult(), mnist_5k()
    width = people.x.shape[1]
    binary = tf.keras.losses.BinaryCrossentropy(from_logits=True)
    classes = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return {
        "Adult": Task(
            people, lambda private: tabular(width, dropout=0.0 if private else 0.3), binary, epochs=10, batch=256
        ),
        "MNIST-5k": Task(digits, lambda private: tutorial_cnn(), classes, epochs=20, batch=64),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    rows = []
    print("| data | epsilon (PLD, delta 1e-05) | accuracy: mean (lowest to highest) | below non-private, points |")
    print("|---|---|---|---:|", flush=True)
    for name, task in tasks().items():
        plain = [task.plain(seed) for seed in seeds]
        rows.append({"data": name, "epsilon": None, "accuracy": plain})
        print(f"| {name} | non-private | {spread(plain)} | |", flush=True)
        for epsilon in EPSILONS:
            plan = task.plan(epsilon)
            found = [task.private(seed, plan) for seed in seeds]
            below = 100 * (statistics.mean(plain) - statistics.mean(found))
            rows.append({"data": name, "epsilon": plan.epsilon(), "plan": plan.parameters(), "accuracy": found})
            print(f"| {name} | {plan.epsilon():.3f} | {spread(found)} | {below:.2f} |", flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")


def spread(values: list[float]) -> str:
    """Return mean, lowest and highest."""
    return f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


if __name__ == "__main__":
    main()
