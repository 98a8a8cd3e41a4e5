"""Log loss and expected calibration error of one probability, for TFMA.

Its own BinaryCrossEntropy is NaN where a float32 probability has rounded to 0 or 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorflow_model_analysis.metrics import metric_types

from privacy_pipeline.components.evaluator.sums import SumMetric
from privacy_pipeline.tasks.probabilities import BINS, LEAST, Floats, calibration_error, mean_loss


def no_losses() -> Floats:
    """Return the sums of no row: how many, and their losses."""
    return np.zeros(2)


def no_bins() -> Floats:
    """Return the sums of no row, as `probabilities.bin_sums` gives them."""
    return np.zeros((3, BINS))


def add_loss(sums: Floats, label: float, probability: float) -> None:
    """Add the row of `probabilities.losses`, without an array for each."""
    certain = min(max(probability, LEAST), 1 - LEAST)
    sums[0] += 1
    sums[1] -= label * math.log(certain) + (1 - label) * math.log1p(-certain)


def add_to_bin(sums: Floats, label: float, probability: float) -> None:
    """Add the row of `probabilities.bin_sums`, without an array for each."""
    place = min(max(int(probability * BINS), 0), BINS - 1)
    sums[0, place] += 1
    sums[1, place] += label
    sums[2, place] += probability


def _loss(sums: Floats, label: NDArray[Any], prediction: NDArray[Any]) -> None:
    add_loss(sums, label.item(), prediction.item())


def _bin(sums: Floats, label: NDArray[Any], prediction: NDArray[Any]) -> None:
    add_to_bin(sums, label.item(), prediction.item())


class LogLoss(SumMetric):
    """Mean cross-entropy of the label."""

    def __init__(self, name: str = "log_loss") -> None:
        super().__init__(name, empty=no_losses, add=_loss, metric=mean_loss, by_row=False)


class ExpectedCalibrationError(SumMetric):
    """Distance between shares of positives and probabilities, over bins of the probability."""

    def __init__(self, name: str = "ece") -> None:
        super().__init__(name, empty=no_bins, add=_bin, metric=calibration_error, by_row=False)


metric_types.register_metric(LogLoss)
metric_types.register_metric(ExpectedCalibrationError)
