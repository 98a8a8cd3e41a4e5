"""Declares PrivacyGate."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import component_spec, standard_artifacts

from privacy_pipeline.components import artifacts
from privacy_pipeline.components.privacy_gate import executor


class PrivacyGateSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of PrivacyGate."""

    PARAMETERS = {
        "policy": component_spec.ExecutionParameter(type=str),
        "thresholds": component_spec.ExecutionParameter(type=str),
        "held": component_spec.ExecutionParameter(type=str),
        "private_thresholds": component_spec.ExecutionParameter(type=str),
        "privacy_class": component_spec.ExecutionParameter(type=str),
        "answers": component_spec.ExecutionParameter(type=str),
        "ledger": component_spec.ExecutionParameter(type=str),
        "data": component_spec.ExecutionParameter(type=str),
        "workspace": component_spec.ExecutionParameter(type=str),
        "run_id": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "evaluation_blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing, optional=True),
        "privacy_record": component_spec.ChannelParameter(type=artifacts.PrivacyRecordArtifact),
        "encrypted_evaluation": component_spec.ChannelParameter(
            type=artifacts.EncryptedEvaluationArtifact, optional=True
        ),
    }
    OUTPUTS = {"blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing)}


class PrivacyGate(base_component.BaseComponent):
    """The evaluation, the privacy record, the ledger and the policy become the blessing that Pusher trusts.

    Never served from cache: `run_id` is a parameter, so that policy and ledger are checked again in every run.

    Args:
        model: the candidate.
        evaluation: Evaluator's metrics and validation result, which name the thresholds that were missed; or what
            DpEvaluator released.
        evaluation_blessing: Evaluator's verdict; None after a DpEvaluator, whose intervals are compared with
            `thresholds` here.
        privacy_record: record of the training.
        policy: JSON of the config's `policy` section.
        thresholds: JSON of the least value of each metric of a DP evaluation.
        held: JSON of the names of the metrics with a threshold.
        private_thresholds: JSON of the thresholds that the private predictions have to meet as well, by metric.
        privacy_class: class of runs that the config announces.
        answers: what the model answers (`FeaturePlan.answers`), for later runs that look for a baseline.
        ledger: SQLAlchemy URL of the ledger that the record's entries are looked up in.
        data, workspace: JSON of the folders of the data, and that of the workspace: their pins name the ledger that
            they belong to.
        run_id: the run, to keep the node out of the cache.
        encrypted_evaluation: plain and private predictions, compared, with the encrypted backend.
    """

    SPEC_CLASS = PrivacyGateSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        *,
        model: types.BaseChannel,
        evaluation: types.BaseChannel,
        evaluation_blessing: types.BaseChannel | None,
        privacy_record: types.BaseChannel,
        policy: str,
        thresholds: str,
        held: str,
        private_thresholds: str,
        privacy_class: str,
        answers: str,
        ledger: str,
        data: str,
        workspace: str,
        run_id: str,
        encrypted_evaluation: types.BaseChannel | None = None,
    ) -> None:
        spec = PrivacyGateSpec(
            model=model,
            evaluation=evaluation,
            evaluation_blessing=evaluation_blessing,
            privacy_record=privacy_record,
            encrypted_evaluation=encrypted_evaluation,
            policy=policy,
            thresholds=thresholds,
            held=held,
            private_thresholds=private_thresholds,
            privacy_class=privacy_class,
            answers=answers,
            ledger=ledger,
            data=data,
            workspace=workspace,
            run_id=run_id,
            blessing=types.Channel(type=standard_artifacts.ModelBlessing),
        )
        super().__init__(spec=spec)
