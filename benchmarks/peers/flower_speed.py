"""Measure seconds per round of Flower's simulation, in the environment from `federated.py`. Prints one JSON object."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.client import NumPyClient
from flwr.common import Context, ndarrays_to_parameters
from flwr.server import ServerConfig
from flwr.server.strategy import FedAvg
from flwr.simulation import start_simulation

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from federated_shapes import BATCH, LEARNING_RATE, ROWS, task
from federated_torch import Net


class Client(NumPyClient):
    """Local SGD on one client's rows."""

    def __init__(self, model: str, x: torch.Tensor, y: torch.Tensor) -> None:
        self.net, self.x, self.y = Net(model), x, y

    def fit(self, parameters: list[Any], config: dict[str, Any]) -> Any:
        """Train one epoch."""
        torch.set_num_threads(1)  # Ray runs as many clients at once as there are processors
        with torch.no_grad():
            for own, value in zip(self.net.parameters(), parameters, strict=True):
                own.copy_(torch.from_numpy(np.array(value)))
        optimizer = torch.optim.SGD(self.net.parameters(), LEARNING_RATE)
        for start in range(0, ROWS, BATCH):
            optimizer.zero_grad()
            self.net.loss(self.x[start : start + BATCH], self.y[start : start + BATCH]).backward()
            optimizer.step()
        return [value.detach().numpy() for value in self.net.parameters()], ROWS, {}


class Timed(FedAvg):
    """Notes when a round ends, and how many clients came to it."""

    ends: list[float] = []  # noqa: RUF012
    came: list[int] = []  # noqa: RUF012

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """Aggregate, and note the time."""
        result = super().aggregate_fit(server_round, results, failures)
        self.ends.append(time.perf_counter())
        self.came.append(len(results))
        return result


def main() -> None:
    given = json.loads(sys.argv[1])
    logging.getLogger("flwr").setLevel(logging.ERROR)
    model, clients = given["model"], given["clients"]

    def client(context: Context) -> Any:
        made = task(model, clients)
        rows = made.rows(int(context.node_config["partition-id"]))
        return Client(model, torch.from_numpy(made.x[rows]), torch.from_numpy(made.y[rows])).to_client()

    strategy = Timed(
        fraction_fit=given["cohort"] / given["clients"],
        fraction_evaluate=0.0,
        min_available_clients=given["clients"],
        initial_parameters=ndarrays_to_parameters([value.detach().numpy() for value in Net(model).parameters()]),
    )
    start_simulation(
        client_fn=client,
        num_clients=given["clients"],
        config=ServerConfig(num_rounds=given["rounds"] + 1),
        strategy=strategy,
        client_resources={"num_cpus": 1},
        ray_init_args={"num_cpus": given["threads"], "include_dashboard": False, "log_to_driver": False},
    )
    if set(strategy.came) != {given["cohort"]}:
        raise SystemExit(f"{sorted(set(strategy.came))} clients came to the rounds, not {given['cohort']}")
    times = np.diff(strategy.ends)
    print(
        json.dumps({"seconds": float(min(times)), "median": float(np.median(times)), "rounds": len(times)}), flush=True
    )


if __name__ == "__main__":
    main()
