"""How accurate and how fast is `make_private` on handwritten digits, beside Opacus and TensorFlow Privacy?

    python -m benchmarks.library_peers --seeds 4

1,437 images of 8 x 8 pixels to train with, 360 to test; epsilon 3 at delta 1e-5, batches of 64 as expected, 30 epochs,
Adam at 0.01, clipping norm 1, for all three: nothing is tuned for one of them. Opacus calibrates its noise by its own
accountant, TensorFlow Privacy gets ours. Seconds are those of a whole training, from the model to its last step.
Digits are public, and seeds fixed. Prints the table and writes benchmarks/results/library_peers.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks.peer_environments import OPACUS, interpreter
from privacy_pipeline.dp import PrivacyPlan, make_private

L = tf.keras.layers
RESULTS = Path(__file__).parent / "results" / "library_peers.json"
EPSILON, DELTA, BATCH, EPOCHS, RATE, NORM = 3.0, 1e-5, 64, 30, 0.01, 1.0
MODELS = ("MLP", "CNN")


def digits() -> dict[str, Any]:
    """Return images [rows, 8, 8, 1] in [0, 1] and classes, for training and for test."""
    from sklearn.datasets import load_digits

    values, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(values))
    x, y = (values[order] / 16).astype(np.float32).reshape(-1, 8, 8, 1), classes[order].astype(np.int64)
    return {"x": x[:1437], "y": y[:1437], "test_x": x[1437:], "test_y": y[1437:]}


def layers(name: str) -> list[Any]:
    """Return the loss of a network with ten logits."""
    if name == "MLP":
        return [L.Input((8, 8, 1)), L.Flatten(), L.Dense(64, "relu"), L.Dense(10)]
    first = [L.Input((8, 8, 1)), L.Conv2D(16, 3, padding="same", activation="relu"), L.MaxPool2D()]
    return [*first, L.Conv2D(16, 3, padding="same", activation="relu"), L.GlobalAveragePooling2D(), L.Dense(10)]


def plan(rows: int) -> PrivacyPlan:
    """Return the same for ours and for TensorFlow Privacy."""
    return PrivacyPlan.calibrated(
        units=rows, expected_batch_size=BATCH, epochs=EPOCHS, epsilon=EPSILON, delta=DELTA, clipping_norm=NORM
    )


def ours(name: str, data: dict[str, Any], seed: int) -> tuple[float, float]:
    """Return accuracy and seconds."""
    began = time.perf_counter()
    tf.keras.utils.set_random_seed(seed)
    model = tf.keras.Sequential(layers(name))
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    private = make_private(model, plan(len(data["y"])), optimizer=tf.keras.optimizers.Adam(RATE), loss=loss, seed=seed)
    private.fit(data["x"], data["y"])
    return _accuracy(model, data), time.perf_counter() - began


def tensorflow_privacy(name: str, data: dict[str, Any], seed: int) -> tuple[float, float]:
    """Train as in its tutorial: `DPSequential` on shuffled batches of one size."""
    from tensorflow_privacy import DPSequential

    began = time.perf_counter()
    tf.keras.utils.set_random_seed(seed)
    noise = plan(len(data["y"])).noise.multiplier
    model = DPSequential(NORM, noise, BATCH, layers=layers(name))
    model.compile(tf.keras.optimizers.Adam(RATE), tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    whole = BATCH * (len(data["y"]) // BATCH)
    model.fit(data["x"][:whole], data["y"][:whole], batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return _accuracy(model, data), time.perf_counter() - began


def opacus(name: str, data: dict[str, Any], seeds: int) -> list[tuple[float, float]]:
    """Return accuracy and seconds of each seed, in Opacus' own environment."""
    python = interpreter("opacus", OPACUS)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "digits.npz"
        np.savez(file, **data)
        settings = {"data": str(file), "model": name, "seeds": seeds, "epsilon": EPSILON, "delta": DELTA}
        settings |= {"batch": BATCH, "epochs": EPOCHS, "rate": RATE, "norm": NORM}
        command = [str(python), str(Path(__file__).parent / "peers" / "opacus_digits.py"), json.dumps(settings)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [(one["accuracy"], one["seconds"]) for one in map(json.loads, done.stdout.splitlines())]


def _accuracy(model: Any, data: dict[str, Any]) -> float:
    return float(np.mean(np.argmax(model.predict(data["test_x"], verbose=0), -1) == data["test_y"]))


def row(library: str, name: str, found: list[tuple[float, float]]) -> dict[str, Any]:
    """Print and return the row of some trainings."""
    accuracies, seconds = zip(*found, strict=True)
    mean, median = statistics.mean(accuracies), statistics.median(seconds)
    print(
        f"| {name} | {library} | {mean:.3f} | {min(accuracies):.3f} to {max(accuracies):.3f} | {median:.1f} |",
        flush=True,
    )
    return {"model": name, "library": library, "accuracy": accuracies, "seconds": seconds}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    seeds, data, rows = parser.parse_args().seeds, digits(), []
    print("| model | library | accuracy | least to most | seconds |\n|---|---|---:|---|---:|")
    for name in MODELS:
        rows.append(row("privacy_pipeline", name, [ours(name, data, seed) for seed in range(seeds)]))
        rows.append(row("Opacus", name, opacus(name, data, seeds)))
        rows.append(row("TensorFlow Privacy", name, [tensorflow_privacy(name, data, seed) for seed in range(seeds)]))
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
