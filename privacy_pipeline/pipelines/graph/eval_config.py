"""The config's evaluation section as TFMA's EvalConfig."""

from __future__ import annotations

import json
from typing import Any

import tensorflow_model_analysis as tfma

from privacy_pipeline.config.models.evaluation import EvaluationSection, Threshold
from privacy_pipeline.data.schema.features import LABEL_FEATURE
from privacy_pipeline.tasks.task import Label, Task


def eval_config(section: EvaluationSection, *, task: Task, label: Label | None = None) -> tfma.EvalConfig:
    """Return an EvalConfig with all metrics of a task on every slice, and the thresholds on the overall slice.

    TFMA reads raw examples: the model's `serving_default` predicts, and its `transform_features` gives the label.

    Args:
        section: of the config.
        task: of the label.
        label: public facts of the label; None where nothing public is known.
    """
    return tfma.EvalConfig(
        model_specs=[
            tfma.ModelSpec(
                signature_name="serving_default",
                prediction_key=task.prediction,
                label_key=LABEL_FEATURE,
                preprocessing_function_names=["transform_features"],
            )
        ],
        slicing_specs=[tfma.SlicingSpec()] + [tfma.SlicingSpec(feature_keys=keys) for keys in section.slices],
        metrics_specs=[tfma.MetricsSpec(metrics=_metrics(section, task, label))],
    )


def _metrics(section: EvaluationSection, task: Task, label: Label | None) -> list[tfma.MetricConfig]:
    settings = task.metric_settings(label)
    bounds: dict[str, Threshold] = {str(name): bound for name, bound in section.thresholds.items()}
    configured = [
        tfma.MetricConfig(
            class_name=metric.tfma_class,
            module=metric.tfma_module,
            config=json.dumps(settings) if settings else "",
            per_slice_thresholds=_thresholds(bounds[metric.name]) if metric.name in bounds else [],
        )
        for metric in task.metrics
    ]
    return [*configured, *(tfma.MetricConfig(class_name=name) for name in task.counts)]


def _thresholds(bound: Threshold) -> list[tfma.PerSliceMetricThreshold]:
    # A plain `threshold` would apply to every slice; the config's applies to the whole eval split.
    given: dict[str, Any] = {}
    if bound.min is not None:
        given["value_threshold"] = tfma.GenericValueThreshold(lower_bound={"value": bound.min})
    if bound.max is not None:
        given["value_threshold"] = tfma.GenericValueThreshold(upper_bound={"value": bound.max})
    if bound.max_increase is not None:
        given["change_threshold"] = tfma.GenericChangeThreshold(
            direction=tfma.MetricDirection.LOWER_IS_BETTER, absolute={"value": bound.max_increase}
        )
    if bound.max_decrease is not None:
        given["change_threshold"] = tfma.GenericChangeThreshold(
            direction=tfma.MetricDirection.HIGHER_IS_BETTER, absolute={"value": -bound.max_decrease}
        )
    return [tfma.PerSliceMetricThreshold(slicing_specs=[tfma.SlicingSpec()], threshold=tfma.MetricThreshold(**given))]
