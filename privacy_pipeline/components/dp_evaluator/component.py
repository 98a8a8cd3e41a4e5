"""Declares DpEvaluator."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from privacy_pipeline.components.dp_evaluator import executor


class DpEvaluatorSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of DpEvaluator. Every parameter is part of TFX's cache key."""

    PARAMETERS = {
        "config": component_spec.ExecutionParameter(type=str),
        "domains": component_spec.ExecutionParameter(type=str),
        "code": component_spec.ExecutionParameter(type=str),
        "lock": component_spec.ExecutionParameter(type=str),
        "data_digest": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {"evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation)}


class DpEvaluator(base_beam_component.BaseBeamComponent):
    """Noisy confusion counts of the eval split and of its slices, charged to the eval split's own units.

    It takes the place of Evaluator. It has no thresholds: PrivacyGate compares them with the intervals, so that
    another threshold costs nothing.

    Args:
        examples: raw examples.
        model: the candidate.
        config: JSON of the config as far as it shapes the release (`pipelines.graph.cache_keys.evaluation_view`).
        domains: JSON of the public values of the columns that are sliced by.
        code: hash of framework and user code, so that the cache sees a change of either.
        lock: hash of the dependency lock.
        data_digest: digest of the source files, by which the ledger identifies the dataset.
    """

    SPEC_CLASS = DpEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        *,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        config: str,
        domains: str,
        code: str,
        lock: str,
        data_digest: str,
    ) -> None:
        spec = DpEvaluatorSpec(
            examples=examples,
            model=model,
            config=config,
            domains=domains,
            code=code,
            lock=lock,
            data_digest=data_digest,
            evaluation=types.Channel(type=standard_artifacts.ModelEvaluation),
        )
        super().__init__(spec=spec)
