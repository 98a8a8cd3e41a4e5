"""Metrics of a number, for TFMA: labels are scaled to 0 to 1, predictions and errors are in the label's units.

None has the name of a metric of Keras, which TFMA would take for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorflow_model_analysis.metrics import metric_types

from privacy_pipeline.components.evaluator.sums import SumMetric
from privacy_pipeline.tasks.probabilities import Floats, mean_loss

Errors = list[float]  # absolute, of each row


def _no_sums() -> Floats:
    return np.zeros(5)


def _root_mean_square(sums: Floats) -> float:
    return math.sqrt(sums[2] / sums[0]) if sums[0] else float("nan")


def _determination(sums: Floats) -> float:
    """Return 1 minus the squared errors over the squares around the mean label; NaN where all labels are the same."""
    rows, _, squares, labels, squared_labels = sums
    around = squared_labels - labels * labels / rows if rows else 0.0
    # Labels lie in 0 to 1 here; below this, a difference of equal labels is the rounding of their sum.
    if around <= 1e-12 * rows:
        return float("nan")
    return float(1 - squares / around)


def _median(errors: Errors) -> float:
    return float(np.median(errors)) if errors else float("nan")


class _NumberMetric(SumMetric):
    """A metric of the errors of numbers.

    Args:
        name: of the result.
        minimum, maximum: range of the label.
        metric: of the sums of all rows, or of all errors.
        each: whether the error of each row is kept; else there are sums.
        scaled: whether errors are shares of the range; else they are in the label's units.
    """

    def __init__(
        self,
        name: str,
        minimum: float,
        maximum: float,
        *,
        metric: Callable[[Any], float],
        each: bool = False,
        scaled: bool = False,
    ) -> None:
        span = maximum - minimum

        def error(label: NDArray[Any], prediction: NDArray[Any]) -> float:
            found = abs(float(label.item()) * span + minimum - float(prediction.item()))
            return found / span if scaled else found

        def add(sums: Floats, label: NDArray[Any], prediction: NDArray[Any]) -> None:
            off, scaled_label = error(label, prediction), float(label.item())
            sums += (1, off, off * off, scaled_label, scaled_label * scaled_label)

        def keep(errors: Errors, label: NDArray[Any], prediction: NDArray[Any]) -> None:
            errors.append(error(label, prediction))

        super().__init__(name, empty=list if each else _no_sums, add=keep if each else add, metric=metric, by_row=False)


class MeanErrorInUnits(_NumberMetric):
    """Mean distance between label and prediction."""

    def __init__(self, minimum: float, maximum: float, name: str = "mae") -> None:
        super().__init__(name, minimum, maximum, metric=mean_loss)


class RootMeanSquareInUnits(_NumberMetric):
    """Root of the mean squared distance."""

    def __init__(self, minimum: float, maximum: float, name: str = "rmse") -> None:
        super().__init__(name, minimum, maximum, metric=_root_mean_square)


class RSquared(_NumberMetric):
    """Share of the label's variance that the prediction explains (R squared); below 0 for a bad model."""

    def __init__(self, minimum: float, maximum: float, name: str = "r2") -> None:
        super().__init__(name, minimum, maximum, metric=_determination, scaled=True)


class MedianErrorInUnits(_NumberMetric):
    """Median distance between label and prediction. It holds one number a row in memory."""

    def __init__(self, minimum: float, maximum: float, name: str = "median_absolute_error") -> None:
        super().__init__(name, minimum, maximum, metric=_median, each=True)


for _metric in (MeanErrorInUnits, RootMeanSquareInUnits, RSquared, MedianErrorInUnits):
    metric_types.register_metric(_metric)
