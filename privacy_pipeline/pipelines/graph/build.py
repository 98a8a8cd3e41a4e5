"""A run's spec as a TFX pipeline."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tfx import types
from tfx.components import SchemaGen, StatisticsGen
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.orchestration.pipeline import Pipeline
from tfx.proto import example_gen_pb2

from privacy_pipeline.backends.models import user_code
from privacy_pipeline.backends.models.user_code import FRAMEWORK_PREPROCESSING
from privacy_pipeline.components.dp_statistics.charged import Places, request_of
from privacy_pipeline.components.dp_statistics.component import DpStatistics
from privacy_pipeline.components.example_gen.component import BoundExampleGen
from privacy_pipeline.components.example_validator.component import GatingExampleValidator
from privacy_pipeline.components.trainer.component import PrivateTrainer
from privacy_pipeline.components.transform import crossed
from privacy_pipeline.components.transform.component import PublicTransform
from privacy_pipeline.components.transform.executor import APART, FORBID_ANALYZERS, Request
from privacy_pipeline.config.models.dataset import DatasetConfig, KeyedUnit
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.schema.schema_reader import schema_bytes
from privacy_pipeline.data.source import SPLIT_ORDER, folders_of
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import write_bytes_atomically
from privacy_pipeline.files.literal_paths import literal
from privacy_pipeline.pipelines.graph.after_training import after_training
from privacy_pipeline.pipelines.graph.cache_keys import training_view
from privacy_pipeline.pipelines.graph.example_files import as_copied
from privacy_pipeline.pipelines.nodes import DP_STATISTICS
from privacy_pipeline.pipelines.workspace.metadata import connection_config
from privacy_pipeline.pipelines.workspace.run_state import RunSpec
from privacy_pipeline.pipelines.workspace.workspace import Workspace
from privacy_pipeline.processes.installed import hash_of_framework

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
    tail = after_training(spec, workspace, examples, transform, trainer)
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
        "positive_class": "" if dataset.positive_class is None else str(dataset.positive_class),
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
