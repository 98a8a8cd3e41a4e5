"""Shapes of the models and the made-up data of `dp_sgd.py`; needs only NumPy, for peers in other environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

UNITS = 60_000
VOCABULARY, SEQUENCE, WIDTH, HEADS, INNER = 1_000, 64, 64, 4, 128


@dataclass(frozen=True)
class Task:
    """Inputs and labels of a model.

    Attributes:
        shape: shape of one input.
        classes: classes to tell apart; 1 for a logit of two.
        tokens: whether inputs are whole numbers below `VOCABULARY`.
    """

    shape: tuple[int, ...]
    classes: int
    tokens: bool = False

    def data(self, units: int = UNITS) -> tuple[Any, Any]:
        """Return x, float32 or int32 [units, *shape], and y, int64 [units] (one class: float32 [units, 1])."""
        random = np.random.default_rng(0)
        if self.tokens:
            x: Any = random.integers(0, VOCABULARY, (units, *self.shape), dtype=np.int32)
        else:
            x = random.random((units, *self.shape), dtype=np.float32)
        if self.classes == 1:
            return x, random.integers(0, 2, (units, 1)).astype(np.float32)
        return x, random.integers(0, self.classes, units)


TASKS = {
    "mnist-cnn": Task((28, 28, 1), 10),  # network of TensorFlow Privacy's MNIST tutorial
    "mlp": Task((784,), 10),  # 784-256-256-10
    "adult": Task((432,), 1),  # the `tabular` model of configs/adult_dp_sgd.yaml: 432-64-32-1
    "transformer": Task((SEQUENCE,), 10, tokens=True),  # embedding, two blocks, mean over positions, 10 classes
}


def poisson_sample(random: np.random.Generator, units: int, probability: float) -> Any:
    """Return the numbers of a Poisson sample, ascending, int64, [batch], from geometric gaps."""
    most = int(units * probability + 8 * (units * probability) ** 0.5 + 16)
    found = np.cumsum(random.geometric(probability, most)) - 1
    return found[found < units]
