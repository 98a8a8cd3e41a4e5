"""Declares the Transform that keeps to public knowledge in a private run."""

from __future__ import annotations

from tfx import types
from tfx.components.transform import component as stock
from tfx.dsl.components.base import executor_spec

from privacy_pipeline.components.transform import executor


class PublicTransform(stock.Transform):
    """Stock Transform without statistics; in a private run it refuses a `preprocessing_fn` that analyzes the data.

    Statistics of transformed data would be one more uncharged release, and they cost half of the node's time.

    Args:
        examples: raw examples.
        schema: the schema.
        preprocessing_fn: dotted path of the function.
        custom_config: handed to the function; `executor.FORBID_ANALYZERS` in it, if not empty, forbids analyzers.
    """

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        *,
        examples: types.BaseChannel,
        schema: types.BaseChannel,
        preprocessing_fn: str,
        custom_config: dict[str, str],
    ) -> None:
        super().__init__(
            examples=examples,
            schema=schema,
            preprocessing_fn=preprocessing_fn,
            custom_config=custom_config,
            disable_statistics=True,
            disable_analyzer_cache=True,
        )
