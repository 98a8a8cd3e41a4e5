"""Compare the speed of DP-SGD and of federated rounds in two checkouts of this project, in turns, window by window.

    python -m benchmarks.before_after --before ../another-checkout
    python -m benchmarks.before_after --before ../another-checkout --models federated-small --batch 20 200

Each model trains once in each checkout, in a separate process that waits while the other one works. A window is some
steps; the ratio is that of the medians, with the middle half of the ratios of neighbouring windows. A step of a
federated model is a round, and its batch is the cohort.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

HERE = Path(__file__).resolve().parent.parent
_WARM_STEPS = 10
_FEDERATED = ("federated-small", "federated-cnn", "federated-words", "federated-dp")


class Turns:
    """Counts steps, and waits for its turn before each window of them."""

    def __init__(self, steps: int) -> None:
        self._steps, self._seen, self._begin = steps, 0, 0.0

    def step(self) -> None:
        """Call after each step."""
        self._seen += 1
        done = self._seen - _WARM_STEPS
        if done >= 0 and done % self._steps == 0:
            print(time.perf_counter() - self._begin if done else "ready", flush=True)
            sys.stdin.readline()
            self._begin = time.perf_counter()


def rounds(name: str, cohort: int, steps: int, windows: int) -> None:
    """Work like `worker`, for rounds of the fast engine: 1,000 clients (40 for the convolutional model) of 100 rows."""
    import numpy as np

    from benchmarks.federated_engines import Made, keras, loss
    from benchmarks.federated_shapes import BATCH, LEARNING_RATE, cohorts, task
    from federated.fast.engine import FastEngine
    from federated.model import FederatedModel
    from federated.privacy.gaussian import GaussianAggregator
    from federated.privacy.plan import FederatedPlan
    from privacy_pipeline.config.models.federated import FederatedAlgorithm, OptimizerSection
    from privacy_pipeline.dp.graphs.randomness import RunKey

    kind = "cnn" if name == "federated-cnn" else "small"
    given = task(kind, 40 if kind == "cnn" else 1_000)
    clients, network = Made(given), words() if name == "federated-words" else keras(kind)
    if name == "federated-words":
        clients.features["x"] = (999 * np.abs(np.sin(given.x))).astype(np.int32)
    model, aggregator = FederatedModel(network, loss=loss(kind)), None
    if name == "federated-dp":
        total = _WARM_STEPS + steps * windows
        sampled = {"rounds": total, "clients": 1_000, "clients_per_round": cohort}
        plan = FederatedPlan.calibrated(**sampled, delta=1e-5, clipping_norm=1.0, epsilon=5.0)
        aggregator = GaussianAggregator(plan=plan, key=RunKey.from_seed(1), shapes=model.shapes)
    algorithm = FederatedAlgorithm(batch_size=BATCH, client_optimizer=OptimizerSection(learning_rate=LEARNING_RATE))
    engine = FastEngine(model=model, clients=clients, algorithm=algorithm, aggregator=aggregator)
    state, choose, turns = engine.initial_state(), cohorts(given.clients, cohort), Turns(steps)
    for number in range(_WARM_STEPS + steps * windows):
        state = engine.run_round(state, choose(number)).state
        turns.step()


def words() -> Any:
    """Return rows of ten ids from a table of 1,000."""
    import tensorflow as tf

    layers = tf.keras.layers
    given = tf.keras.Input((10,), dtype=tf.int32, name="x")
    pooled = layers.GlobalAveragePooling1D()(layers.Embedding(1_000, 16)(given))
    return tf.keras.Model(given, layers.Dense(1, "sigmoid")(pooled))


def worker(name: str, batch: int, steps: int, windows: int) -> None:
    """Train, and print the seconds of a window for each line that it reads."""
    import tensorflow as tf

    from benchmarks.dp_sgd_models import make_loss, make_model
    from benchmarks.dp_sgd_shapes import TASKS
    from privacy_pipeline.dp import ExampleStore, PrivacyPlan, make_private

    turns = Turns(steps)
    after_step = tf.keras.callbacks.LambdaCallback(on_batch_end=lambda batch, logs: turns.step())
    after_step.sets_no_weights = True  # as the callback of a pipeline's training
    x, y = TASKS[name].data()
    plan = PrivacyPlan.calibrated(
        units=len(x),
        expected_batch_size=batch,
        steps=_WARM_STEPS + steps * windows,
        noise_multiplier=1.0,
        delta=1e-5,
        clipping_norm=1.0,
    )
    private = make_private(make_model(name), plan, optimizer="sgd", loss=make_loss(name))
    private.fit(ExampleStore.from_arrays(x, y), callbacks=[after_step])


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Return a worker of one checkout that has traced and warmed up."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--worker", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if process.stdout is None or process.stdout.readline().strip() != "ready":
        raise SystemExit(f"the worker of {folder} has ended")
    return process


def window(process: subprocess.Popen[str]) -> float:
    """Return the seconds of the next window."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def measure(before: Path, name: str, batch: int, steps: int, windows: int) -> str:
    """Return a row of the table."""
    arguments = name, str(batch), str(steps), str(windows)
    old, new = started(before, *arguments), started(HERE, *arguments)
    seconds = [(window(old), window(new)) for _ in range(windows)]
    for process in (old, new):
        process.kill()
        process.wait()
    low, _, high = quantiles([b / a for a, b in seconds], n=4)
    medians = [1e3 * median(column) / steps for column in zip(*seconds, strict=True)]
    ratio = medians[1] / medians[0]
    return f"| {name} | {batch} | {medians[0]:.2f} | {medians[1]:.2f} | {ratio:.2f} | {low:.2f} to {high:.2f} |"


def main() -> None:
    """Print the table."""
    if sys.argv[1:2] == ["--worker"]:
        sys.path.pop(0)  # this folder, whose `federated` is a script
        name, numbers = sys.argv[2], map(int, sys.argv[3:])
        (rounds if name in _FEDERATED else worker)(name, *numbers)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="folder of the other checkout")
    parser.add_argument("--models", nargs="+", default=["mnist-cnn", "mlp", "adult", "transformer"])
    parser.add_argument("--batch", nargs="+", type=int, default=[256, 1024])
    parser.add_argument("--steps", type=int, default=10, help="steps of a window")
    parser.add_argument("--windows", type=int, default=20)
    given = parser.parse_args()
    print("| model | batch | ms a step before | after | ratio | middle half |")
    print("|---|---:|---:|---:|---:|---|")
    for name in given.models:
        for batch in given.batch:
            print(measure(given.before.resolve(), name, batch, given.steps, given.windows), flush=True)


if __name__ == "__main__":
    main()
