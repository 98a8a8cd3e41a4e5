"""Declares the Transform that uses only public or released facts in a private run."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import component_spec, standard_artifacts, standard_component_specs
from tfx.utils import json_utils

from privacy_pipeline.components.artifacts import DpStatisticsArtifact
from privacy_pipeline.components.transform import executor


class PublicTransformSpec(standard_component_specs.TransformSpec):
    """Stock spec, and DP statistics as one more input."""

    INPUTS = {
        **standard_component_specs.TransformSpec.INPUTS,
        executor.STATISTICS: component_spec.ChannelParameter(type=DpStatisticsArtifact, optional=True),
    }


class PublicTransform(base_beam_component.BaseBeamComponent):
    """Transform without statistics; in a private run it refuses a `preprocessing_fn` that analyzes the data.

    Statistics of transformed data would be one more uncharged release, and they cost half of the node's time.

    Args:
        examples: raw examples.
        schema: the schema.
        preprocessing_fn: dotted path of the function.
        custom_config: handed to the function; `executor.FORBID_ANALYZERS` in it, if not empty, forbids analyzers.
        statistics: DP statistics that fill the feature plan in `custom_config`; None where the schema states it all.
    """

    SPEC_CLASS = PublicTransformSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        *,
        examples: types.BaseChannel,
        schema: types.BaseChannel,
        preprocessing_fn: str,
        custom_config: dict[str, str],
        statistics: types.BaseChannel | None = None,
    ) -> None:
        transformed = types.Channel(type=standard_artifacts.Examples)
        transformed.matching_channel_name = "examples"
        spec = PublicTransformSpec(
            examples=examples,
            schema=schema,
            statistics=statistics,
            preprocessing_fn=preprocessing_fn,
            custom_config=json_utils.dumps(custom_config),
            force_tf_compat_v1=0,
            disable_statistics=1,
            transform_graph=types.Channel(type=standard_artifacts.TransformGraph),
            transformed_examples=transformed,
        )
        super().__init__(spec=spec)
