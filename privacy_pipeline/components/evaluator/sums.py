"""A metric of TFMA that follows from sums over rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import apache_beam as beam
from numpy.typing import NDArray
from tensorflow_model_analysis.metrics import metric_types, metric_util

Add = Callable[[Any, NDArray[Any], NDArray[Any]], None]


class _Combiner(beam.CombineFn):
    """Sums over rows, and the metric that follows from them."""

    def __init__(
        self,
        key: metric_types.MetricKey,
        *,
        empty: Callable[[], Any],
        add: Add,
        metric: Callable[[Any], float],
        given: dict[str, Any],
    ) -> None:
        self._key, self._empty, self._add, self._metric, self._given = key, empty, add, metric, given

    def create_accumulator(self) -> Any:
        return self._empty()

    def add_input(self, sums: Any, element: Any) -> Any:
        for label, prediction, _ in metric_util.to_label_prediction_example_weight(element, **self._given):
            self._add(sums, label, prediction)
        return sums

    def merge_accumulators(self, accumulators: Iterable[Any]) -> Any:
        return sum(accumulators, self._empty())

    def extract_output(self, sums: Any) -> dict[metric_types.MetricKey, float]:
        return {self._key: self._metric(sums)}


class SumMetric(metric_types.Metric):
    """A metric of sums.

    Args:
        name: of the result.
        empty: sums of no row, to which others can be added.
        add: adds a row to sums, given its label and its prediction.
        metric: of the sums of all rows.
        by_row: whether `add` gets all outputs of a row; else it gets each of them as if it were alone.
    """

    def __init__(
        self, name: str, *, empty: Callable[[], Any], add: Add, metric: Callable[[Any], float], by_row: bool
    ) -> None:
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
                "flatten": not by_row,
            }
            combiner = _Combiner(key, empty=empty, add=add, metric=metric, given=given)
            return [metric_types.MetricComputation(keys=[key], preprocessors=None, combiner=combiner)]

        super().__init__(metric_util.merge_per_key_computations(computations), name=name)
