"""Declares the ExampleValidator that stops a run on data that does not keep the schema."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts, standard_component_specs
from tfx.utils import json_utils

from privacy_pipeline.components.example_validator import executor


class GatingExampleValidatorSpec(standard_component_specs.ExampleValidatorSpec):
    """Stock spec, and whether the schema was inferred from the same data."""

    PARAMETERS = {
        **standard_component_specs.ExampleValidatorSpec.PARAMETERS,
        executor.INFERRED: component_spec.ExecutionParameter(type=int, optional=True),
    }


class GatingExampleValidator(base_component.BaseComponent):
    """Stock ExampleValidator, except that anomalies stop the run, and NaN and infinity are not values.

    Args:
        statistics: statistics of all splits.
        schema: the schema that the data has to keep.
        inferred: whether the schema was inferred from these statistics, in which NaN counts as a value.
    """

    SPEC_CLASS = GatingExampleValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(self, *, statistics: types.BaseChannel, schema: types.BaseChannel, inferred: bool = False) -> None:
        spec = GatingExampleValidatorSpec(
            statistics=statistics,
            schema=schema,
            exclude_splits=json_utils.dumps([]),
            anomalies=types.Channel(type=standard_artifacts.ExampleAnomalies),
            **{executor.INFERRED: int(inferred)},
        )
        super().__init__(spec=spec)
