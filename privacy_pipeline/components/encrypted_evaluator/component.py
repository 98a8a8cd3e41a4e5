"""Declares EncryptedEvaluator."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from privacy_pipeline.components import artifacts
from privacy_pipeline.components.encrypted_evaluator import executor


class EncryptedEvaluatorSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of EncryptedEvaluator. Every parameter is part of TFX's cache key."""

    PARAMETERS = {
        "encrypted": component_spec.ExecutionParameter(type=str),
        "code": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "transform_graph": component_spec.ChannelParameter(type=standard_artifacts.TransformGraph),
    }
    OUTPUTS = {
        "encrypted_evaluation": component_spec.ChannelParameter(type=artifacts.EncryptedEvaluationArtifact),
    }


class EncryptedEvaluator(base_component.BaseComponent):
    """Predicts the eval split plainly and privately, and keeps how they differ and what the latter costs.

    Privately with all parties in one process, or through those of a folder, as the config has it.

    Args:
        model: of the encrypted backend; holds the plain and the converted model.
        examples: transformed examples with an eval split.
        transform_graph: the tf.Transform output that made them.
        encrypted: JSON of the config's `training.encrypted`.
        code: hash of framework and user code, so that the cache sees a change of either.
    """

    SPEC_CLASS = EncryptedEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        model: types.BaseChannel,
        examples: types.BaseChannel,
        transform_graph: types.BaseChannel,
        encrypted: str,
        code: str,
    ) -> None:
        spec = EncryptedEvaluatorSpec(
            model=model,
            examples=examples,
            transform_graph=transform_graph,
            encrypted=encrypted,
            code=code,
            encrypted_evaluation=types.Channel(type=artifacts.EncryptedEvaluationArtifact),
        )
        super().__init__(spec=spec)
