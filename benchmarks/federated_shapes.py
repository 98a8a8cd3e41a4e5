"""The tasks of every engine of `federated.py`: shapes of models, made-up clients, cohorts. Needs only NumPy."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BATCH, BATCHES = 20, 5
ROWS = BATCH * BATCHES
LEARNING_RATE = 0.1
FEATURES, HIDDEN = 10, 16  # 193 parameters
IMAGE, FILTERS, DENSE, CLASSES = (28, 28, 1), (32, 64), 312, 10  # 1.0 million parameters


@dataclass(frozen=True)
class Task:
    """A model's clients, all of the same size."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.float32]
    clients: int

    def rows(self, client: int) -> slice:
        """Return the rows of one client."""
        return slice(client * ROWS, (client + 1) * ROWS)


@functools.lru_cache(maxsize=1)
def task(model: str, clients: int) -> Task:
    """Return made-up examples of this many clients, made once in a process."""
    random = np.random.default_rng(0)
    if model == "small":
        x = random.standard_normal((clients * ROWS, FEATURES), np.float32)
        return Task(x, (x[:, 0] > 0).astype(np.float32), clients)
    x = random.standard_normal((clients * ROWS, *IMAGE), np.float32)
    return Task(x, random.integers(0, CLASSES, len(x)).astype(np.float32), clients)


def cohorts(clients: int, size: int) -> Callable[[int], npt.NDArray[np.int64]]:
    """Return the clients of a round."""
    return lambda number: np.sort(np.random.default_rng(number).choice(clients, size, replace=False)).astype(np.int64)


def seconds_a_round(run: Callable[[int], object], *, seconds: float, most: int = 200) -> list[float]:
    """Return times of rounds after a first one, for about this long."""
    run(0)
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - begin < seconds and len(times) < most):
        start = time.perf_counter()
        run(len(times) + 1)
        times.append(time.perf_counter() - start)
    return times
