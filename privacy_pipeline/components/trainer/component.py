"""Declares PrivateTrainer."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts, system_executions

from privacy_pipeline.components import artifacts
from privacy_pipeline.components.trainer import executor


class PrivateTrainerSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of PrivateTrainer. Every parameter is part of TFX's cache key."""

    PARAMETERS = {
        "config": component_spec.ExecutionParameter(type=str),
        "features": component_spec.ExecutionParameter(type=str),
        "code": component_spec.ExecutionParameter(type=str),
        "lock": component_spec.ExecutionParameter(type=str),
        "data_digest": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "transform_graph": component_spec.ChannelParameter(type=standard_artifacts.TransformGraph),
        "statistics": component_spec.ChannelParameter(type=artifacts.DpStatisticsArtifact, optional=True),
    }
    OUTPUTS = {
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun),
        "privacy_record": component_spec.ChannelParameter(type=artifacts.PrivacyRecordArtifact),
    }
    TYPE_ANNOTATION = system_executions.Train


class PrivateTrainer(base_component.BaseComponent):
    """Trains with the backend that the config names, and charges the ledger for it.

    Args:
        examples: transformed examples.
        transform_graph: the tf.Transform output that made them.
        config: JSON of the config as far as it shapes the model (`pipelines.graph.cache_keys.training_view`).
        features: JSON of the feature plan of the schema.
        code: hash of framework and user code, so that the cache sees a change of either.
        lock: hash of the dependency lock.
        data_digest: digest of the source files, by which the ledger identifies the dataset.
        statistics: DP statistics that fill the feature plan; None where the schema states it all.
    """

    SPEC_CLASS = PrivateTrainerSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        examples: types.BaseChannel,
        transform_graph: types.BaseChannel,
        config: str,
        features: str,
        code: str,
        lock: str,
        data_digest: str,
        statistics: types.BaseChannel | None = None,
    ) -> None:
        spec = PrivateTrainerSpec(
            examples=examples,
            transform_graph=transform_graph,
            config=config,
            features=features,
            code=code,
            lock=lock,
            data_digest=data_digest,
            statistics=statistics,
            model=types.Channel(type=standard_artifacts.Model),
            model_run=types.Channel(type=standard_artifacts.ModelRun),
            privacy_record=types.Channel(type=artifacts.PrivacyRecordArtifact),
        )
        super().__init__(spec=spec)
