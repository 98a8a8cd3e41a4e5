"""Reads the metrics of a TFMA result, slice by slice, and names those that a slice does not define."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tensorflow_model_analysis as tfma

from privacy_pipeline.reports.record.summary import METRIC_NAMES, SliceMetrics

_NO_POSITIVE = "no row has the positive class"
_NO_NEGATIVE = "all rows have the positive class"
_NONE_PREDICTED = "no row was predicted positive"


def read_slices(evaluation_uri: str) -> list[SliceMetrics]:
    """Return the metrics of every slice of a TFMA result, the overall one first.

    Args:
        evaluation_uri: folder of the result.
    """
    result = tfma.load_eval_result(evaluation_uri)
    slices = [_slice(key, values) for key, values in result.slicing_metrics]
    return sorted(slices, key=lambda s: (s.name != "overall", s.name))


def read_baseline(evaluation_uri: str) -> dict[str, float]:
    """Return the overall metrics of the model that a TFMA result compares with; empty where there is none.

    Args:
        evaluation_uri: folder of the result.
    """
    result = tfma.load_eval_result(evaluation_uri)
    overall = next(values for key, values in result.slicing_metrics if not key)
    values, lacking = overall[""][""], _slice((), overall).undefined
    found = {}
    for theirs, ours in METRIC_NAMES.items():
        number, difference = (values.get(name, {}).get("doubleValue") for name in (theirs, f"{theirs}_diff"))
        # Both models are evaluated on the same rows; what these do not define (AUC, recall) neither has.
        if number is not None and difference is not None and ours not in lacking:
            found[ours] = float(number) - float(difference)
    return found


def undefined(counts: Mapping[str, float]) -> dict[str, str]:
    """Return the metrics that confusion counts do not define, each with the reason. TFMA gives 0 or NaN for them.

    Args:
        counts: `true_positives`, `false_positives`, `true_negatives`, `false_negatives` of a slice.
    """
    hits, alarms, rest, missed = (
        counts[name] for name in ("true_positives", "false_positives", "true_negatives", "false_negatives")
    )
    found = {}
    if not hits + missed:
        found["auc"] = found["pr_auc"] = found["recall"] = _NO_POSITIVE
    elif not alarms + rest:
        found["auc"] = _NO_NEGATIVE
    if not hits + alarms:
        found["precision"] = _NONE_PREDICTED
    return found


def _slice(key: Any, values: Any) -> SliceMetrics:
    named = {name: value for name, value in values[""][""].items() if isinstance(value, dict)}
    numbers = {name: float(value["doubleValue"]) for name, value in named.items() if "doubleValue" in value}
    lacking = undefined(numbers) if "true_positives" in numbers else {}  # results of 0.1.0 have no counts
    return SliceMetrics(
        name=", ".join(f"{column}={value}" for column, value in key) or "overall",
        examples=int(numbers["example_count"]),
        metrics={
            ours: None if ours in lacking else _finite(numbers[theirs])
            for theirs, ours in METRIC_NAMES.items()
            if theirs in numbers
        },
        undefined=lacking,
    )


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
