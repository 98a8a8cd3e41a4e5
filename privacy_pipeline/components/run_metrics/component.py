"""Declares RunMetrics."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from privacy_pipeline.components import artifacts
from privacy_pipeline.components.run_metrics import executor


class RunMetricsSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of RunMetrics."""

    PARAMETERS = {
        "run_id": component_spec.ExecutionParameter(type=str),
        "run_dir": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun),
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
        "privacy_record": component_spec.ChannelParameter(type=artifacts.PrivacyRecordArtifact),
        "encrypted_evaluation": component_spec.ChannelParameter(
            type=artifacts.EncryptedEvaluationArtifact, optional=True
        ),
    }
    OUTPUTS = {"run_metrics": component_spec.ChannelParameter(type=artifacts.RunMetricsArtifact)}


class RunMetrics(base_component.BaseComponent):
    """Publishes accuracy, AUC, epsilon, delta and the like of one run as properties of one artifact.

    Never served from cache: each run gets an artifact of its own.

    Args:
        model, model_run, evaluation, blessing, privacy_record: what the run made.
        run_id: the run.
        run_dir: folder of the run, which gets a copy of the summary.
        encrypted_evaluation: plain against private predictions, with the encrypted backend.
    """

    SPEC_CLASS = RunMetricsSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        model: types.BaseChannel,
        model_run: types.BaseChannel,
        evaluation: types.BaseChannel,
        blessing: types.BaseChannel,
        privacy_record: types.BaseChannel,
        run_id: str,
        run_dir: str,
        encrypted_evaluation: types.BaseChannel | None = None,
    ) -> None:
        spec = RunMetricsSpec(
            model=model,
            model_run=model_run,
            evaluation=evaluation,
            blessing=blessing,
            privacy_record=privacy_record,
            encrypted_evaluation=encrypted_evaluation,
            run_id=run_id,
            run_dir=run_dir,
            run_metrics=types.Channel(type=artifacts.RunMetricsArtifact),
        )
        super().__init__(spec=spec)
