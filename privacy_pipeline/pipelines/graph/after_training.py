"""The nodes of the DAG that follow the training: evaluation, gate, metrics and push."""

from __future__ import annotations

import json
from typing import Any

from tfx import types
from tfx.components import Evaluator
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.base.base_node import BaseNode
from tfx.dsl.components.common.resolver import Resolver
from tfx.types import standard_artifacts

from privacy_pipeline.components.dp_evaluator.component import DpEvaluator
from privacy_pipeline.components.encrypted_evaluator.component import EncryptedEvaluator
from privacy_pipeline.components.privacy_gate.component import PrivacyGate
from privacy_pipeline.components.pusher.component import AtomicPusher
from privacy_pipeline.components.resolver.strategy import ANSWERS, PRIVACY_CLASS, LatestBlessedOfClass
from privacy_pipeline.components.run_metrics.component import RunMetrics
from privacy_pipeline.config.models.evaluation import EvaluationSection
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.source import folders_of
from privacy_pipeline.pipelines.graph.cache_keys import evaluation_view
from privacy_pipeline.pipelines.graph.eval_config import eval_config
from privacy_pipeline.pipelines.nodes import DP_EVALUATOR, ENCRYPTED, GATE
from privacy_pipeline.pipelines.preflight.announce import announced_class
from privacy_pipeline.pipelines.preflight.planned_charges import slice_domains
from privacy_pipeline.pipelines.workspace.run_state import RunSpec
from privacy_pipeline.pipelines.workspace.workspace import Workspace
from privacy_pipeline.tasks import registry as tasks


def after_training(
    spec: RunSpec, workspace: Workspace, examples: BaseComponent, transform: BaseComponent, trainer: BaseComponent
) -> list[BaseNode]:
    """Return the nodes that follow the trainer, in the order of the DAG."""
    config = spec.config
    evaluators, evaluation, verdict = _evaluation(spec, examples, trainer)
    encrypted = _encrypted_evaluator(spec, transform, trainer)
    privately = {} if encrypted is None else {"encrypted_evaluation": encrypted.outputs["encrypted_evaluation"]}
    gate = PrivacyGate(
        model=trainer.outputs["model"],
        evaluation=evaluation,
        evaluation_blessing=verdict,
        privacy_record=trainer.outputs["privacy_record"],
        policy=config.policy.model_dump_json(),
        thresholds=json.dumps(_noisy_thresholds(config.evaluation), sort_keys=True),
        held=json.dumps(sorted(config.evaluation.thresholds)),
        private_thresholds=json.dumps(_private_thresholds(config), sort_keys=True),
        privacy_class=announced_class(config),
        answers=_answers(spec),
        ledger=config.ledger,
        data=json.dumps([str(folder.absolute()) for folder in folders_of(config.dataset)]),
        workspace=str(Workspace(config).root),
        run_id=spec.run_id,
        **privately,
    )
    metrics = RunMetrics(
        model=trainer.outputs["model"],
        model_run=trainer.outputs["model_run"],
        evaluation=evaluation,
        blessing=gate.outputs["blessing"],
        privacy_record=trainer.outputs["privacy_record"],
        run_id=spec.run_id,
        run_dir=str(spec.run_dir),
        **privately,
    )
    pusher = AtomicPusher(
        model=trainer.outputs["model"],
        model_blessing=gate.outputs["blessing"],
        directory=str(workspace.push_directory),
    ).with_id("Pusher")
    return [*evaluators, *([] if encrypted is None else [encrypted]), gate, metrics, pusher]


def _encrypted_evaluator(spec: RunSpec, transform: BaseComponent, trainer: BaseComponent) -> BaseComponent | None:
    section = spec.config.training.encrypted
    if section is None:
        return None
    return EncryptedEvaluator(
        model=trainer.outputs["model"],
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        encrypted=section.model_dump_json(),
        code=spec.code,
    ).with_id(ENCRYPTED)


def _noisy_thresholds(section: EvaluationSection) -> dict[str, float]:
    """Return the thresholds that PrivacyGate applies to a DP evaluation; Evaluator judges an exact one."""
    if section.dp is None:
        return {}
    return {name: bound.min for name, bound in section.thresholds.items() if bound.min is not None}


def _answers(spec: RunSpec) -> str:
    return "" if spec.features is None else spec.features.answers


def _private_thresholds(config: PipelineConfig) -> dict[str, Any]:
    """Return the thresholds that PrivacyGate applies to private predictions; none where the model is served plainly."""
    if config.training.encrypted is None:
        return {}
    return {name: bound.model_dump(mode="json") for name, bound in config.evaluation.thresholds.items()}


def _evaluation(
    spec: RunSpec, examples: BaseComponent, trainer: BaseComponent
) -> tuple[list[BaseNode], types.BaseChannel, types.BaseChannel | None]:
    """Return the nodes that evaluate, their evaluation, and Evaluator's verdict (None for a DP evaluation)."""
    config = spec.config
    if config.evaluation.dp is not None:
        noisy = DpEvaluator(
            examples=examples.outputs["examples"],
            model=trainer.outputs["model"],
            config=evaluation_view(config, span=spec.span).model_dump_json(by_alias=True),
            domains=json.dumps(slice_domains(config), sort_keys=True),
            code=spec.code,
            lock=spec.lock,
            data_digest=spec.data_digest,
        ).with_id(DP_EVALUATOR)
        return [noisy], noisy.outputs["evaluation"], None
    baseline = Resolver(
        strategy_class=LatestBlessedOfClass,
        config={PRIVACY_CLASS: announced_class(config), ANSWERS: _answers(spec)},
        model=types.Channel(type=standard_artifacts.Model, producer_component_id="Trainer"),
        model_blessing=types.Channel(type=standard_artifacts.ModelBlessing, producer_component_id=GATE),
    ).with_id("Resolver")
    evaluator = Evaluator(
        examples=examples.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=baseline.outputs["model"],
        eval_config=eval_config(config.evaluation, task=tasks.of(config.dataset), label=spec.features),
    )
    return [baseline, evaluator], evaluator.outputs["evaluation"], evaluator.outputs["blessing"]
