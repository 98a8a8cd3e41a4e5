"""The config's blocks on evaluation, on what PrivacyGate demands, and on where blessed models go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from privacy_pipeline.config.extensions import MetricName
from privacy_pipeline.config.models.base import Section
from privacy_pipeline.config.models.dp import Delta, PositiveFloat
from privacy_pipeline.config.models.encrypted import EncryptedPolicy
from privacy_pipeline.tasks.registry import metrics


class Threshold(Section):
    """Bounds of one metric: an absolute one, and one against the last blessed model of the same privacy class.

    `min` and `max_decrease` where a larger value is better, `max` and `max_increase` for losses and errors.
    """

    min: Annotated[float | None, Field(ge=0, le=1, description="Least value that is accepted.")] = None
    max_decrease: Annotated[
        float | None, Field(ge=0, le=1, description="Largest drop below the last blessed model that is accepted.")
    ] = None
    max: Annotated[
        float | None,
        Field(ge=0, allow_inf_nan=False, description="Largest value that is accepted, of a loss or error."),
    ] = None
    max_increase: Annotated[
        float | None,
        Field(
            ge=0,
            allow_inf_nan=False,
            description="Largest rise above the last blessed model that is accepted, of a loss or error.",
        ),
    ] = None

    @property
    def compares(self) -> bool:
        """Whether a bound is against the last blessed model."""
        return self.max_decrease is not None or self.max_increase is not None

    def require_direction(self, name: str, *, larger_is_better: bool) -> None:
        """Refuse a threshold without a bound, or with one that a good model would miss.

        Args:
            name: the metric.
            larger_is_better: of the metric.

        Raises:
            ValueError: it has no bound, or one of the other direction.
        """
        up, down = ("min", "max_decrease"), ("max", "max_increase")
        right, wrong = (up, down) if larger_is_better else (down, up)
        for here, there in zip(wrong, right, strict=True):
            if getattr(self, here) is not None:
                better = "larger" if larger_is_better else "smaller"
                raise ValueError(f"a {better} {name} is better: replace `{here}` of thresholds.{name} by `{there}`")
        if all(getattr(self, key) is None for key in right):
            raise ValueError(f"thresholds.{name}: give `{right[0]}`, `{right[1]}` or both")


Metric = Annotated[str, MetricName]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class DpEvaluationSection(Section):
    """Evaluation with noisy confusion counts, charged to the eval split's own units (policy: `eval_epsilon`)."""

    epsilon: Annotated[PositiveFloat, Field(description="Epsilon of one evaluation: all counts of all slices.")]
    delta: Delta
    decision_threshold: Annotated[
        float, Field(ge=0, lt=1, description="Probability above which a row counts as predicted positive.")
    ] = 0.5


class EvaluationSection(Section):
    """Metrics, slices and the thresholds that a model has to meet."""

    slices: Annotated[
        list[Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]],
        Field(description="Columns to slice by; a list of columns is a crossed slice."),
    ] = []
    thresholds: Annotated[
        dict[Metric, Threshold], Field(min_length=1, description="Bounds that a model has to meet, by metric.")
    ]
    dp: Annotated[
        DpEvaluationSection | None, Field(description="Evaluate with differential privacy; without it, exactly.")
    ] = None

    @model_validator(mode="after")
    def _bounds_on_the_side_of_bad_models(self) -> EvaluationSection:
        known = metrics()
        for name, bound in self.thresholds.items():
            bound.require_direction(name, larger_is_better=known[name].larger_is_better)
        return self

    @model_validator(mode="after")
    def _thresholds_that_noisy_counts_can_show(self) -> EvaluationSection:
        if self.dp is None:
            return self
        known = metrics()
        for name in self.thresholds:
            if not known[name].from_counts:
                counted = [metric.name for metric in known.values() if metric.from_counts]
                raise ValueError(
                    f"`dp` has no {name}: it does not follow from confusion counts at one decision threshold; set "
                    f"thresholds on {', '.join(counted[:-1])} or {counted[-1]}"
                )
        for name, bound in self.thresholds.items():
            if bound.compares:
                raise ValueError(
                    f"`dp` has no baseline to compare with: replace `max_decrease` of thresholds.{name} by `min`"
                )
        return self


class PolicySection(Section):
    """What PrivacyGate demands beside the quality thresholds."""

    max_epsilon: Annotated[
        PositiveFloat | None, Field(description="Largest epsilon of a run that PrivacyGate accepts.")
    ] = None
    max_delta: Annotated[Delta | None, Field(description="Largest delta of a run that PrivacyGate accepts.")] = None
    encrypted: EncryptedPolicy = EncryptedPolicy()


class PushSection(Section):
    """Where blessed models go, each in a numbered folder of its own."""

    directory: Annotated[
        Path | None, Field(description="Default: `pushed/`, then the name of the pipeline, in the workspace.")
    ] = None
