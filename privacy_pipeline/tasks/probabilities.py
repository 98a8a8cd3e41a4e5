"""Metrics of predicted probabilities as functions of sums over rows. NumPy alone.

Log loss is the mean cross-entropy. Expected calibration error (Guo et al. 2017, arXiv:1706.04599, section 2) is the
mean distance, over bins of equal width, between the share of positives and the mean probability, weighted by rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 15
LEAST = 1e-7  # a probability is cut here and at 1 - LEAST, as Keras does: float32 rounds some to 0 or 1
Floats = NDArray[np.float64]


def losses(labels: Floats, probabilities: Floats) -> Floats:
    """Return the cross-entropy of each row.

    Args:
        labels: 0 or 1, [rows].
        probabilities: of label 1, [rows].
    """
    certain = np.clip(np.asarray(probabilities, np.float64), LEAST, 1 - LEAST)
    found: Floats = -(labels * np.log(certain) + (1 - labels) * np.log1p(-certain))
    return found


def bin_sums(labels: Floats, probabilities: Floats) -> Floats:
    """Return rows, sum of labels and sum of probabilities of each bin: float64, [3, BINS].

    Args:
        labels: 0 or 1, [rows].
        probabilities: of label 1, [rows].
    """
    bins = np.clip((np.asarray(probabilities, np.float64) * BINS).astype(int), 0, BINS - 1)
    values = (np.ones(len(bins)), labels, probabilities)
    return np.stack([np.bincount(bins, weights=value, minlength=BINS) for value in values])


def calibration_error(sums: Floats) -> float:
    """Return the expected calibration error; NaN without a row.

    Args:
        sums: of `bin_sums`, added up.
    """
    rows, positives, probabilities = sums
    return float(np.abs(positives - probabilities).sum() / rows.sum()) if rows.any() else float("nan")


def mean_loss(sums: Floats) -> float:
    """Return the mean loss; NaN without a row.

    Args:
        sums: the number of rows, and the sum of their losses.
    """
    return float(sums[1] / sums[0]) if sums[0] else float("nan")


def average_precision(labels: NDArray[np.bool_], scores: Floats) -> float | None:
    """Return the area under the precision-recall curve by steps; None without a positive.

    Args:
        labels: whether a row is positive, [rows].
        scores: the larger, the more likely, [rows].
    """
    if not labels.any():
        return None
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order])
    last = np.append(np.diff(scores[order]) != 0, True)  # equal scores are one step
    precision, found = hits[last] / (np.flatnonzero(last) + 1), hits[last]
    return float((np.diff(found, prepend=0) * precision).sum() / hits[-1])
