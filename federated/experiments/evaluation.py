"""Evaluation over clients: the whole split, and how a metric is spread over its clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federated.clients.store import ClientStore
from federated.contract import Array, RoundState

# (state, features of some rows) -> logits of the positive class, float [rows]
Predict = Callable[[RoundState, dict[str, Array]], Array]
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_ROWS = 65_536  # predicted at a time


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Exact metrics on the eval split; outside of any guarantee.

    Attributes:
        accuracy, loss: over all rows; loss is the mean binary cross-entropy.
        auc: area under the ROC curve over all rows; NaN where there is one class only.
        client_accuracy_mean, client_accuracy_std: over clients, each with the same weight.
        client_accuracy: its 5, 25, 50, 75 and 95 % quantiles over clients.
    """

    accuracy: float
    loss: float
    auc: float
    client_accuracy_mean: float
    client_accuracy_std: float
    client_accuracy: tuple[float, ...]


def evaluate(state: RoundState, clients: ClientStore, predict: Predict) -> Evaluation:
    """Evaluate a model on all clients of a store.

    Args:
        state: the model.
        clients: labels are 1 for the positive class, else 0.
        predict: gives logits.
    """
    pieces = []
    for start in range(0, clients.num_examples, _ROWS):
        rows = slice(start, start + _ROWS)
        pieces.append(np.asarray(predict(state, {name: array[rows] for name, array in clients.features.items()})))
    logits = np.concatenate(pieces).reshape(-1).astype(np.float64)
    labels = np.asarray(clients.labels).reshape(-1) > 0
    right = (logits > 0) == labels
    by_client = np.add.reduceat(right.astype(np.float64), clients.offsets[:-1]) / clients.counts
    return Evaluation(
        accuracy=float(right.mean()),
        loss=float(np.mean(np.logaddexp(0.0, np.where(labels, -logits, logits)))),
        auc=area_under_curve(logits, labels),
        client_accuracy_mean=float(by_client.mean()),
        client_accuracy_std=float(by_client.std()),
        client_accuracy=tuple(float(value) for value in np.quantile(by_client, QUANTILES)),
    )


def area_under_curve(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Return the chance that a positive row outscores a negative one, ties counting half (Mann-Whitney); NaN for one
    class.
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        return float("nan")
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))
