"""Measure accuracy and seconds of Opacus on digits, in the environment that `library_peers.py` makes.

    python opacus_digits.py '{"data": "digits.npz", "model": "MLP", "seeds": 4, "epsilon": 3.0, "delta": 1e-5, ...}'

Writes one JSON object per seed: `PrivacyEngine.make_private_with_epsilon` with its defaults.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import numpy as np
import torch
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def network(name: str) -> nn.Module:
    if name == "MLP":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    )


def train(given: dict[str, Any], data: dict[str, torch.Tensor], seed: int) -> dict[str, float]:
    began = time.perf_counter()
    torch.manual_seed(seed)
    model = network(given["model"])
    optimizer: Any = torch.optim.Adam(model.parameters(), lr=given["rate"])
    loader: Any = DataLoader(TensorDataset(data["x"], data["y"]), batch_size=given["batch"])
    model, optimizer, loader = PrivacyEngine().make_private_with_epsilon(
        module=model,
        optimizer=optimizer,
        data_loader=loader,
        target_epsilon=given["epsilon"],
        target_delta=given["delta"],
        epochs=given["epochs"],
        max_grad_norm=given["norm"],
    )
    criterion = nn.CrossEntropyLoss()
    for _ in range(given["epochs"]):
        for x, y in loader:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        right = model(data["test_x"]).argmax(1) == data["test_y"]
    return {"accuracy": float(right.float().mean()), "seconds": time.perf_counter() - began}


def main() -> None:
    given = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    with np.load(given["data"]) as held:
        data = {name: torch.from_numpy(held[name]) for name in held.files}
    for name in ("x", "test_x"):
        data[name] = data[name].permute(0, 3, 1, 2).contiguous()
    for seed in range(given["seeds"]):
        print(json.dumps(train(given, data, seed)), flush=True)


if __name__ == "__main__":
    main()
