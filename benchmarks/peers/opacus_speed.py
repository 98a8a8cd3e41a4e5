"""Measure examples a second of Opacus and of plain PyTorch, in the environment that `dp_sgd.py` makes.

    python opacus_speed.py '{"models": ["mlp"], "batch": [256], "threads": 2, "seconds": 1.0, "repeats": 3}'

Writes one JSON object per line. Modes: per-sample gradients by hooks, by `functorch` ("ew" where a layer has an
expanded weight), and ghost clipping. Batches are Poisson samples, indexed from tensors in memory: Opacus' own loader,
which collates examples one by one, is left out in its favour.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from opacus import PrivacyEngine
from opacus.layers import DPMultiheadAttention
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from dp_sgd_shapes import HEADS, INNER, TASKS, UNITS, VOCABULARY, WIDTH, poisson_sample
from peer_timing import compare

MODES = ("hooks", "functorch", "ew", "ghost")


class Block(nn.Module):
    """Attention and an inner network, each with a residual and a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = DPMultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.inner = nn.Sequential(nn.Linear(WIDTH, INNER), nn.ReLU(), nn.Linear(INNER, WIDTH))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Map [B, T, WIDTH] to the same shape."""
        values = self.first(values + self.attention(values, values, values, need_weights=False)[0])
        return self.second(values + self.inner(values))


class Transformer(nn.Module):
    """Embedding, two blocks, mean over positions, classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map [B, T] to logits [B, 10]."""
        return self.head(self.blocks(self.embedding(tokens)).mean(1))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, 2, padding=3),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, 2),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(512, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def perceptron(*units: int) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(units):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "mnist-cnn": cnn,
    "mlp": lambda: perceptron(784, 256, 256, 10),
    "adult": lambda: perceptron(432, 64, 32, 1),
    "transformer": Transformer,
}


def step_of(name: str, mode: str | None, x: torch.Tensor, y: torch.Tensor, batch: int) -> Callable[[], int]:
    """Return a function that makes one step on a Poisson sample and returns its size; `mode` None is plain PyTorch."""
    model = MAKERS[name]()
    criterion: Any = nn.BCEWithLogitsLoss() if TASKS[name].classes == 1 else nn.CrossEntropyLoss()
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.01)
    if mode is not None:
        loader = DataLoader(TensorDataset(x, y), batch_size=batch)
        made = PrivacyEngine().make_private(
            module=model,
            optimizer=optimizer,
            criterion=criterion,
            data_loader=loader,
            noise_multiplier=1.0,
            max_grad_norm=1.0,
            poisson_sampling=False,
            grad_sample_mode=mode,
        )
        model, optimizer = made[0], made[1]
        criterion = made[2] if mode == "ghost" else criterion
    random = np.random.default_rng(0)

    def step() -> int:
        index = torch.from_numpy(poisson_sample(random, UNITS, batch / UNITS))
        optimizer.zero_grad(set_to_none=True)
        criterion(model(x[index]), y[index]).backward()
        optimizer.step()
        return len(index)

    return step


def main() -> None:
    given = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    torch.set_num_threads(given["threads"])
    for name in given["models"]:
        values, labels = TASKS[name].data()
        x, y = torch.from_numpy(values), torch.from_numpy(labels)
        x = x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x

        def make(mode: Any, batch: int, name: str = name, x: Any = x, y: Any = y) -> Callable[[], int]:
            return step_of(name, mode, x, y, batch)

        compare(name, make, ("plain PyTorch", "Opacus"), MODES, given)


if __name__ == "__main__":
    main()
