"""Log loss and expected calibration error for TFMA.

Its own BinaryCrossEntropy is NaN where a float32 probability has rounded to 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types, metric_util

from privacy_pipeline.tasks.probabilities import BINS, LEAST, Floats, calibration_error

_Add = Callable[[Floats, float, float], None]


def _add_loss(sums: Floats, label: float, probability: float) -> None:
    """Add the row of `probabilities.losses`, without an array for each."""
    certain = min(max(probability, LEAST), 1 - LEAST)
    sums[0] += 1
    sums[1] -= label * math.log(certain) + (1 - label) * math.log1p(-certain)


def _add_to_bin(sums: Floats, label: float, probability: float) -> None:
    """Add the row of `probabilities.bin_sums`, without an array for each."""
    place = min(max(int(probability * BINS), 0), BINS - 1)
    sums[0, place] += 1
    sums[1, place] += label
    sums[2, place] += probability


def _mean_loss(sums: Floats) -> float:
    return float(sums[1] / sums[0])


class _Combiner(beam.CombineFn):
    """Sums over rows, and the metric that follows from them."""

    def __init__(
        self,
        key: metric_types.MetricKey,
        *,
        shape: tuple[int, ...],
        add: _Add,
        metric: Callable[[Floats], float],
        given: dict[str, Any],
    ) -> None:
        self._key, self._shape, self._add, self._metric, self._given = key, shape, add, metric, given

    def create_accumulator(self) -> Floats:
        return np.zeros(self._shape)

    def add_input(self, sums: Floats, element: Any) -> Floats:
        for label, probability, _ in metric_util.to_label_prediction_example_weight(element, **self._given):
            self._add(sums, label.item(), probability.item())
        return sums

    def merge_accumulators(self, accumulators: Iterable[Floats]) -> Floats:
        return sum(accumulators, np.zeros(self._shape))

    def extract_output(self, sums: Floats) -> dict[metric_types.MetricKey, float]:
        return {self._key: self._metric(sums) if sums.any() else float("nan")}


def _computations(
    add: _Add, shape: tuple[int, ...], metric: Callable[[Floats], float]
) -> Callable[..., list[metric_types.MetricComputation]]:
    def computations(
        name: str,
        eval_config: Any = None,
        model_name: str = "",
        output_name: str = "",
        sub_key: Any = None,
        aggregation_type: Any = None,
        class_weights: Any = None,
        example_weighted: bool = False,
    ) -> list[metric_types.MetricComputation]:
        of = {"model_name": model_name, "output_name": output_name, "sub_key": sub_key}
        key = metric_types.MetricKey(name=name, example_weighted=example_weighted, **of)
        given = {
            **of,
            "eval_config": eval_config,
            "aggregation_type": aggregation_type,
            "class_weights": class_weights,
            "example_weighted": example_weighted,
        }
        combiner = _Combiner(key, shape=shape, add=add, metric=metric, given=given)
        return [metric_types.MetricComputation(keys=[key], preprocessors=None, combiner=combiner)]

    return computations


class LogLoss(metric_types.Metric):
    """Mean cross-entropy of the label."""

    def __init__(self, name: str = "log_loss") -> None:
        made = _computations(_add_loss, (2,), _mean_loss)
        super().__init__(metric_util.merge_per_key_computations(made), name=name)


class ExpectedCalibrationError(metric_types.Metric):
    """Distance between shares of positives and probabilities, over bins of the probability."""

    def __init__(self, name: str = "ece") -> None:
        made = _computations(_add_to_bin, (3, BINS), calibration_error)
        super().__init__(metric_util.merge_per_key_computations(made), name=name)


metric_types.register_metric(LogLoss)
metric_types.register_metric(ExpectedCalibrationError)
