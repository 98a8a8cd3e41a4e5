"""A run's spec as a TFX pipeline."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tfx import types
from tfx.components import Evaluator, SchemaGen, StatisticsGen
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.base.base_node import BaseNode
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration.pipeline import Pipeline
from tfx.proto import example_gen_pb2
from tfx.types import standard_artifacts

from privacy_pipeline.backends.models import user_code
from privacy_pipeline.backends.models.user_code import FRAMEWORK_PREPROCESSING
from privacy_pipeline.components.dp_evaluator.component import DpEvaluator
from privacy_pipeline.components.dp_statistics.charged import Places, request_of
from privacy_pipeline.components.dp_statistics.component import DpStatistics
from privacy_pipeline.components.encrypted_evaluator.component import EncryptedEvaluator
from privacy_pipeline.components.example_gen.component import BoundExampleGen
from privacy_pipeline.components.example_validator.component import GatingExampleValidator
from privacy_pipeline.components.privacy_gate.component import PrivacyGate
from privacy_pipeline.components.pusher.component import AtomicPusher
from privacy_pipeline.components.resolver.strategy import PRIVACY_CLASS, LatestBlessedOfClass
from privacy_pipeline.components.run_metrics.component import RunMetrics
from privacy_pipeline.components.trainer.component import PrivateTrainer
from privacy_pipeline.components.transform import crossed
from privacy_pipeline.components.transform.component import PublicTransform
from privacy_pipeline.components.transform.executor import APART, FORBID_ANALYZERS, Request
from privacy_pipeline.config.models import DatasetConfig, EvaluationSection, KeyedUnit, PipelineConfig
from privacy_pipeline.data.schema.schema_reader import schema_bytes
from privacy_pipeline.data.source import SPLIT_ORDER, folders_of
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import write_bytes_atomically
from privacy_pipeline.files.literal_paths import literal
from privacy_pipeline.pipelines.graph.cache_keys import evaluation_view, training_view
from privacy_pipeline.pipelines.graph.eval_config import eval_config
from privacy_pipeline.pipelines.graph.example_files import as_copied
from privacy_pipeline.pipelines.nodes import DP_EVALUATOR, DP_STATISTICS, ENCRYPTED, GATE
from privacy_pipeline.pipelines.preflight.announce import announced_class
from privacy_pipeline.pipelines.preflight.planned_charges import slice_domains
from privacy_pipeline.pipelines.workspace.metadata import connection_config
from privacy_pipeline.pipelines.workspace.workspace import RunSpec, Workspace
from privacy_pipeline.processes.installed import hash_of_framework
from privacy_pipeline.tasks import registry as tasks

INFERRED = "privacy_pipeline.components.transform.inferred.preprocessing_fn"


def build(spec: RunSpec) -> Pipeline:
    """Return the DAG of one run.

    Args:
        spec: what to run.
    """
    config = spec.config
    workspace = Workspace(config)
    examples = _example_gen(spec)
    statistics = StatisticsGen(examples=examples.outputs["examples"])
    schema = _schema_gen(spec, workspace, statistics)
    validator = GatingExampleValidator(
        statistics=statistics.outputs["statistics"],
        schema=schema.outputs["schema"],
        inferred=config.dataset.schema_path == "infer",
    ).with_id("ExampleValidator")
    noisy = _dp_statistics(spec, examples)
    for node in noisy:
        node.add_upstream_node(validator)  # refused data costs no budget
    transform = _transform(spec, examples, schema, noisy)
    trainer = _trainer(spec, transform, noisy)
    trainer.add_upstream_node(validator)
    tail = _after_training(spec, workspace, examples, transform, trainer)
    return Pipeline(
        pipeline_name=config.pipeline,
        pipeline_root=str(literal(workspace.pipeline_root)),
        components=[examples, statistics, schema, validator, *noisy, transform, trainer, *tail],
        metadata_connection_config=connection_config(config),
        enable_cache=config.cache,
        beam_pipeline_args=list(config.beam.args),
    )


def _example_gen(spec: RunSpec) -> BaseComponent:
    if spec.copied is None:
        raise ValueError("the run has no private copy of its data")
    return example_gen(as_copied(spec.config.dataset, folder=spec.copied), digest=spec.data_digest)


def example_gen(dataset: DatasetConfig, *, digest: str) -> BaseComponent:
    """Return the node that reads the files.

    Args:
        dataset: names files and splits, as `as_copied` gave them.
        digest: digest of the files, which the examples will carry.
    """
    inputs = {"all": dataset.input} if isinstance(dataset.input, str) else {str(k): v for k, v in dataset.input.items()}
    splits = [example_gen_pb2.Input.Split(name=name, pattern=pattern) for name, pattern in sorted(inputs.items())]
    output = None
    if dataset.hash_split is not None:
        output = example_gen_pb2.Output(split_config=_split_config(dataset))
    node = BoundExampleGen(
        files=dataset.format,
        input_base=str(dataset.path.absolute()),
        input_config=example_gen_pb2.Input(splits=splits),
        output_config=output,
        digest=digest,
    )
    return node.with_id("ExampleGen")


def _split_config(dataset: DatasetConfig) -> example_gen_pb2.SplitConfig:
    buckets = dataset.hash_split or {}
    # Registration counts the buckets in this order.
    splits = [example_gen_pb2.SplitConfig.Split(name=n, hash_buckets=buckets[n]) for n in SPLIT_ORDER if n in buckets]
    unit = dataset.privacy_unit
    feature = unit.key if isinstance(unit, KeyedUnit) else None
    return example_gen_pb2.SplitConfig(splits=splits, partition_feature_name=feature)


def _schema_gen(spec: RunSpec, workspace: Workspace, statistics: BaseComponent) -> BaseComponent:
    schema = spec.config.dataset.schema_path
    if schema == "infer":
        return SchemaGen(statistics=statistics.outputs["statistics"], infer_feature_shape=True).with_id("SchemaGen")
    return ImportSchemaGen(schema_file=str(_pinned(schema, spec, workspace))).with_id("SchemaGen")


def _pinned(schema: Path, spec: RunSpec, workspace: Workspace) -> Path:
    """Return a copy of the schema that is named by its digest: TFX's cache identifies an imported file by its name
    alone.
    """
    content = schema_bytes(schema)
    digest = hashlib.sha256(content).hexdigest()
    if spec.schema_digest not in ("", digest):
        raise BadInputError(f"{schema}: changed since the run was checked", fix="run again")
    copy = literal(workspace.pipeline_root) / ".schemas" / f"{digest}.pbtxt"
    if not copy.exists() or copy.read_bytes() != content:
        write_bytes_atomically(path=copy, content=content)
    return copy


def transform_config(spec: RunSpec) -> dict[str, str]:
    """Return what `preprocessing_fn` gets as `custom_config`; all of it is part of TFX's cache key."""
    dataset = spec.config.dataset
    unit = dataset.privacy_unit
    return {
        "feature_plan": spec.features.model_dump_json() if spec.features else "",
        "label": dataset.label,
        "positive_class": str(dataset.positive_class),
        "unit_key": unit.key if isinstance(unit, KeyedUnit) else "",
        "params": json.dumps(spec.config.model.params, sort_keys=True),
        "code": spec.code,
        FORBID_ANALYZERS: "yes" if spec.config.training.claims_guarantee else "",
        APART: _apart(spec.config),
    }


def _apart(config: PipelineConfig) -> str:
    """Return what a build of the user's `preprocessing_fn` needs, as JSON; empty where none is made."""
    if not config.model.is_built_apart or user_code.preprocessing_of(config.model.use) == FRAMEWORK_PREPROCESSING:
        return ""
    return Request.of(config).model_dump_json()


def _preprocessing(spec: RunSpec) -> str:
    """Return the dotted path of the preprocessing function: the user's, or the framework's for a public or inferred
    schema.
    """
    if spec.config.dataset.schema_path == "infer" and spec.config.model.use == "tabular":
        return INFERRED
    own = user_code.preprocessing_of(spec.config.model.use)
    if own == FRAMEWORK_PREPROCESSING:
        return own
    if not spec.config.model.runs_beside_data:
        return crossed.PATH
    return user_code.resolve(spec.config.model.use).preprocessing_fn  # TFX imports it by this name


def _dp_statistics(spec: RunSpec, examples: BaseComponent) -> list[BaseComponent]:
    """Return the node that releases the ranges and domains that the schema leaves out; none where it is complete."""
    request = request_of(spec.config, features=spec.features, span=spec.span)
    if request is None:
        return []
    node = DpStatistics(
        examples=examples.outputs["examples"],
        request=request.model_dump_json(),
        places=Places(data=tuple(folders_of(spec.config.dataset)), workspace=spec.config.workspace).model_dump_json(),
        code=hash_of_framework(),  # the user's code does not matter here
        lock=spec.lock,
        data_digest=spec.data_digest,
    )
    return [node.with_id(DP_STATISTICS)]


def _released(noisy: list[BaseComponent]) -> types.BaseChannel | None:
    return noisy[0].outputs["statistics"] if noisy else None


def _transform(
    spec: RunSpec, examples: BaseComponent, schema: BaseComponent, noisy: list[BaseComponent]
) -> BaseComponent:
    return PublicTransform(
        examples=examples.outputs["examples"],
        schema=schema.outputs["schema"],
        preprocessing_fn=_preprocessing(spec),
        custom_config=transform_config(spec),
        statistics=_released(noisy),
    ).with_id("Transform")


def _trainer(spec: RunSpec, transform: BaseComponent, noisy: list[BaseComponent]) -> BaseComponent:
    view = training_view(spec.config, span=spec.span)
    return PrivateTrainer(
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        config=view.model_dump_json(by_alias=True),
        features=spec.features.model_dump_json() if spec.features else "",
        code=spec.code,
        lock=spec.lock,
        data_digest=spec.data_digest,
        statistics=_released(noisy),
    ).with_id("Trainer")


def _after_training(
    spec: RunSpec, workspace: Workspace, examples: BaseComponent, transform: BaseComponent, trainer: BaseComponent
) -> list[BaseNode]:
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
        config={PRIVACY_CLASS: announced_class(config)},
        model=types.Channel(type=standard_artifacts.Model, producer_component_id="Trainer"),
        model_blessing=types.Channel(type=standard_artifacts.ModelBlessing, producer_component_id=GATE),
    ).with_id("Resolver")
    evaluator = Evaluator(
        examples=examples.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=baseline.outputs["model"],
        eval_config=eval_config(config.evaluation, task=tasks.of(config.dataset)),
    )
    return [baseline, evaluator], evaluator.outputs["evaluation"], evaluator.outputs["blessing"]
