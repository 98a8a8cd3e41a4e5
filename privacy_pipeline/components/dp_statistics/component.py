"""Declares DpStatistics."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from privacy_pipeline.components.artifacts import PLACES, DpStatisticsArtifact
from privacy_pipeline.components.dp_statistics import executor


class DpStatisticsSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of DpStatistics. All but `places` are part of TFX's cache key."""

    PARAMETERS = {
        "request": component_spec.ExecutionParameter(type=str),
        PLACES: component_spec.ExecutionParameter(type=str),
        "code": component_spec.ExecutionParameter(type=str),
        "lock": component_spec.ExecutionParameter(type=str),
        "data_digest": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {"examples": component_spec.ChannelParameter(type=standard_artifacts.Examples)}
    OUTPUTS = {"statistics": component_spec.ChannelParameter(type=DpStatisticsArtifact)}


class DpStatistics(base_beam_component.BaseBeamComponent):
    """Noisy ranges and vocabularies of the train split's columns that have no public ones, charged to its units.

    Args:
        examples: raw examples.
        request: JSON of what is asked (`charged.StatisticsRequest`).
        places: JSON of where pins of the data may lie (`charged.Places`).
        code: hash of the framework's code, so that the cache sees a change of it.
        lock: hash of the dependency lock.
        data_digest: digest of the source files, by which the ledger identifies the dataset.
    """

    SPEC_CLASS = DpStatisticsSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self, *, examples: types.BaseChannel, request: str, places: str, code: str, lock: str, data_digest: str
    ) -> None:
        spec = DpStatisticsSpec(
            examples=examples,
            request=request,
            places=places,
            code=code,
            lock=lock,
            data_digest=data_digest,
            statistics=types.Channel(type=DpStatisticsArtifact),
        )
        super().__init__(spec=spec)
