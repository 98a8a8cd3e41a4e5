"""The models of `federated.py` in PyTorch."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from federated_shapes import CLASSES, DENSE, FEATURES, FILTERS, HIDDEN, IMAGE


class Net(nn.Module):
    """Either model, with the methods that pfl-research needs."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.small = model == "small"
        if self.small:
            self.net = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
            return
        first, second = FILTERS
        side = IMAGE[0] // 4
        self.net = nn.Sequential(
            nn.Conv2d(IMAGE[2], first, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(second * side * side, DENSE),
            nn.ReLU(),
            nn.Linear(DENSE, CLASSES),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.net(x if self.small else x.reshape(-1, IMAGE[2], IMAGE[0], IMAGE[1]))

    def loss(self, x: torch.Tensor, y: torch.Tensor, **_: object) -> torch.Tensor:
        """Return the mean loss of a batch."""
        logits = self(x)
        if self.small:
            return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], y)
        return nn.functional.cross_entropy(logits, y.long())

    def metrics(self, x: torch.Tensor, y: torch.Tensor, **_: object) -> dict[str, object]:
        """None."""
        return {}
