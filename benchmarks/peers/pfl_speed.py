"""Measure seconds per round of pfl-research, in the environment from `federated.py`. Prints one JSON object."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from federated_shapes import BATCH, LEARNING_RATE, cohorts, task
from federated_torch import Net


class Clock(TrainingProcessCallback):
    """Notes when a round ends; stops after a number of seconds."""

    def __init__(self, seconds: float) -> None:
        self.ends: list[float] = []
        self._seconds = seconds

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):  # type: ignore[no-untyped-def]
        """Note the time."""
        self.ends.append(time.perf_counter())
        stop = len(self.ends) > 3 and self.ends[-1] - self.ends[0] > self._seconds
        return stop, Metrics()


def main() -> None:
    given = json.loads(sys.argv[1])
    torch.set_num_threads(given["threads"])
    made = task(given["model"], given["clients"])
    x, y = torch.from_numpy(made.x), torch.from_numpy(made.y)
    choose = cohorts(given["clients"], given["cohort"])
    order = iter(str(client) for number in range(1_000_000) for client in choose(number))

    def user(name: str) -> Dataset:
        rows = made.rows(int(name))
        return Dataset(raw_data=[x[rows], y[rows]], user_id=name)

    network = Net(given["model"])
    model = PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), 1.0))
    backend = SimulatedBackend(
        training_data=FederatedDataset(user, lambda: next(order)), val_data=None, postprocessors=[]
    )
    clock = Clock(given["seconds"])
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=201,
            evaluation_frequency=1_000_000,
            train_cohort_size=given["cohort"],
            val_cohort_size=0,
        ),
        backend=backend,
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=LEARNING_RATE, local_batch_size=BATCH
        ),
        model_eval_params=None,
        callbacks=[clock],
        send_metrics_to_platform=False,
    )
    times = np.diff(clock.ends)
    print(
        json.dumps({"seconds": float(min(times)), "median": float(np.median(times)), "rounds": len(times)}), flush=True
    )


if __name__ == "__main__":
    main()
