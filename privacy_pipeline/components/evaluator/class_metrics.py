"""Metrics of several classes, for TFMA: labels are indices of classes, and predictions their probabilities."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorflow_model_analysis.metrics import metric_types

from privacy_pipeline.components.evaluator.probability_metrics import add_loss, add_to_bin, no_bins, no_losses
from privacy_pipeline.components.evaluator.sums import SumMetric
from privacy_pipeline.tasks.probabilities import Floats, calibration_error, mean_loss

_TOP = 3
Found = Counter[tuple[str, int]]  # ("hit", "said" or "is", class) -> rows


def _top(count: int) -> Any:
    def add(sums: Floats, label: NDArray[Any], prediction: NDArray[Any]) -> None:
        # Of equal probabilities the first class comes first, as argmax takes it.
        place = np.flatnonzero(np.argsort(-prediction, kind="stable") == int(label.item()))
        sums += (1, place.item() < count)

    return add


def _share(sums: Floats) -> float:
    return float(sums[1] / sums[0]) if sums[0] else float("nan")


def _count(found: Found, label: NDArray[Any], prediction: NDArray[Any]) -> None:
    said, is_ = int(prediction.argmax()), int(label.item())
    found[("said", said)] += 1
    found[("is", is_)] += 1
    found[("hit", is_)] += said == is_


def macro_f1(found: Found) -> float:
    """Return the mean F1 of the classes that a row has or was predicted to have; NaN without a row.

    Args:
        found: counts of rows.
    """
    classes = {one for _, one in found}
    parts = [2 * found["hit", one] / (found["said", one] + found["is", one]) for one in classes]
    return sum(parts) / len(parts) if parts else float("nan")


def _loss(sums: Floats, label: NDArray[Any], prediction: NDArray[Any]) -> None:
    add_loss(sums, 1.0, float(prediction[int(label.item())]))


def _confidence(sums: Floats, label: NDArray[Any], prediction: NDArray[Any]) -> None:
    said = int(prediction.argmax())
    add_to_bin(sums, float(said == int(label.item())), float(prediction[said]))


class ClassAccuracy(SumMetric):
    """Share of rows whose class is the most likely one."""

    def __init__(self, name: str = "class_accuracy") -> None:
        super().__init__(name, empty=no_losses, add=_top(1), metric=_share, by_row=True)


class TopAccuracy(SumMetric):
    """Share of rows whose class is among the three most likely ones."""

    def __init__(self, name: str = "top_3_accuracy") -> None:
        super().__init__(name, empty=no_losses, add=_top(_TOP), metric=_share, by_row=True)


class MacroF1(SumMetric):
    """Mean F1 over the classes that occur."""

    def __init__(self, name: str = "macro_f1") -> None:
        super().__init__(name, empty=Counter, add=_count, metric=macro_f1, by_row=True)


class ClassLogLoss(SumMetric):
    """Mean cross-entropy of the class."""

    def __init__(self, name: str = "class_log_loss") -> None:
        super().__init__(name, empty=no_losses, add=_loss, metric=mean_loss, by_row=True)


class TopLabelCalibrationError(SumMetric):
    """Distance between accuracy and confidence, over bins of the confidence in the most likely class."""

    def __init__(self, name: str = "top_label_calibration_error") -> None:
        super().__init__(name, empty=no_bins, add=_confidence, metric=calibration_error, by_row=True)


for _metric in (ClassAccuracy, TopAccuracy, MacroF1, ClassLogLoss, TopLabelCalibrationError):
    metric_types.register_metric(_metric)
