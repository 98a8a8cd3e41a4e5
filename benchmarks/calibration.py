"""How well do the probabilities of DP-SGD's models match the outcomes, by clipping norm and learning rate?

    python benchmarks/calibration.py --seeds 3

Trains on Adult and MNIST-5k as `dp_accuracy.py` does, at the defaults of the `dp_sgd` backend but for the clipping norm
and the learning rate. Accuracy, log loss and expected calibration error (15 bins; of MNIST-5k, of the most likely
class) are those of the test rows; the baselines are plain Keras. Prints the table and writes
benchmarks/results/calibration.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from accuracy_data import Data
from dp_accuracy import EPSILONS, tasks

from privacy_pipeline.tasks.probabilities import bin_sums, calibration_error, losses

SETTINGS = ((0.3, 0.01), (1.0, 0.01), (3.0, 0.01), (10.0, 0.01), (10.0, 0.003))  # clipping norm, learning rate of Adam
MEASURES = ("accuracy", "log loss", "ECE")
RESULTS = Path(__file__).parent / "results" / "calibration.json"


def measured(model: Any, data: Data) -> tuple[float, float, float]:
    """Return accuracy, log loss and expected calibration error on the test rows."""
    logits = model.predict(data.test_x, batch_size=4096, verbose=0).astype(np.float64)
    if logits.shape[1] == 1:
        positive = 1 / (1 + np.exp(-logits[:, 0]))
        hits = (positive > 0.5) == data.test_y
        said, came = positive, data.test_y.astype(float)
        loss = losses(came, positive).mean()
    else:
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        hits = shares.argmax(axis=1) == data.test_y
        said, came = shares.max(axis=1), hits.astype(float)
        loss = losses(np.ones(len(hits)), shares[np.arange(len(hits)), data.test_y]).mean()
    return float(hits.mean()), float(loss), calibration_error(bin_sums(came, said))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    rows: list[dict[str, Any]] = []
    print("| data | epsilon | clipping norm | learning rate | accuracy | log loss | ECE |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)

    def row(name: str, settings: tuple[object, ...], found: list[tuple[float, float, float]]) -> None:
        means = [statistics.mean(values) for values in zip(*found, strict=True)]
        rows.append({"data": name, "settings": settings, **dict(zip(MEASURES, means, strict=True))})
        print("| " + " | ".join([name, *map(str, settings), *(f"{mean:.4f}" for mean in means)]) + " |", flush=True)

    for name, task in tasks().items():
        row(name, ("none", "", ""), [measured(task.trained(seed), task.data) for seed in seeds])
        for epsilon in EPSILONS:
            for norm, rate in SETTINGS:
                plan = task.plan(epsilon, clipping_norm=norm)
                models = (task.privately(seed, plan, learning_rate=rate) for seed in seeds)
                row(name, (epsilon, norm, rate), [measured(model, task.data) for model in models])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
