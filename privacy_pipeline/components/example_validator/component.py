"""Declares the gating ExampleValidator."""

from __future__ import annotations

from tfx import types
from tfx.components.example_validator import component as stock
from tfx.dsl.components.base import executor_spec

from privacy_pipeline.components.example_validator import executor


class GatingExampleValidator(stock.ExampleValidator):
    """Stock ExampleValidator, except that anomalies stop the run.

    Args:
        statistics: statistics of all splits.
        schema: the schema that the data has to keep.
    """

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(self, *, statistics: types.BaseChannel, schema: types.BaseChannel) -> None:
        super().__init__(statistics=statistics, schema=schema)
