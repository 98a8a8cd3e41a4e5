"""The TFX pipeline of a config, compiled to TFX's intermediate representation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from tfx.proto import example_gen_pb2

from privacy_pipeline.components.example_gen.executor import digest_in
from privacy_pipeline.config.models.evaluation import Threshold
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.pipelines.graph.build import build, example_gen
from privacy_pipeline.pipelines.graph.compiled import compile_run
from privacy_pipeline.pipelines.nodes import nodes_of
from tests.pipelines.projects import HASHED, KEYED, make_spec, write_project

DP_EVALUATION = {"epsilon": 1.0, "delta": 1e-5}
VARIANTS: dict[str, dict[str, Any]] = {
    "csv, splits given": {},
    "csv, split by the hash of a key": {"dataset": {**HASHED, **KEYED}},
    "csv, split by the hash of a row": {"dataset": HASHED},
    "csv, inferred schema": {"dataset": {"schema": "infer"}},
    "tfrecord": {"dataset": {"format": "tfrecord"}},
    "dp": {"backend": "dp_sgd"},
    "dp, evaluated with dp": {"backend": "dp_sgd", "evaluation": {"dp": DP_EVALUATION}},
}


def compiled(config: PipelineConfig, **changes: Any) -> dict[str, Any]:
    """The nodes of a run by id."""
    nodes = compile_run(make_spec(config, **changes)).nodes
    return {node.pipeline_node.node_info.id: node.pipeline_node for node in nodes}


def parameter(node: Any, name: str) -> Any:
    return node.parameters.parameters[name].field_value.string_value


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_compiles_to_the_nodes_that_are_shown(variant: str, tmp_path: Path) -> None:
    config = write_project(tmp_path, **VARIANTS[variant])
    nodes, names = compiled(config), nodes_of(config)
    assert set(nodes) == set(names) and ("DpEvaluator" in names) == ("evaluated" in variant)
    order = {name: number for number, name in enumerate(names)}
    for name, node in nodes.items():  # as shown to people, a node stands behind what it depends on
        assert all(order[upper] < order[name] for upper in node.upstream_nodes), name


def test_an_edited_schema_is_not_served_from_the_cache(tmp_path: Path) -> None:
    config = write_project(tmp_path)
    schema = config.dataset.schema_path
    assert isinstance(schema, Path)
    before = parameter(compiled(config)["SchemaGen"], "schema_file")
    assert parameter(compiled(config)["SchemaGen"], "schema_file") == before  # what did not change is served
    schema.write_text(schema.read_text() + "# reviewed\n")
    after = parameter(compiled(config)["SchemaGen"], "schema_file")
    assert after != before and Path(after).read_bytes() == schema.read_bytes()
    with pytest.raises(BadInputError, match="changed since the run was checked"):
        compiled(config, schema_digest="0" * 64)


def test_nothing_trains_on_data_that_was_not_validated(tmp_path: Path) -> None:
    assert "ExampleValidator" in compiled(write_project(tmp_path))["Trainer"].upstream_nodes


def test_nothing_is_pushed_but_through_the_gate(tmp_path: Path) -> None:
    nodes = compiled(write_project(tmp_path))
    assert "PrivacyGate" in nodes["Pusher"].upstream_nodes
    blessing = nodes["Pusher"].inputs.inputs["model_blessing"].channels
    assert [channel.producer_node_query.id for channel in blessing] == ["PrivacyGate"]
    # The Resolver looks at blessings of earlier runs, by the node that made them.
    channels = [c for found in nodes["Resolver"].inputs.inputs.values() for c in found.channels]
    contexts = {
        channel.artifact_query.type.name: [query.name.field_value.string_value for query in channel.context_queries]
        for channel in channels
    }
    assert contexts["ModelBlessing"] == ["things", "things.PrivacyGate"]
    assert contexts["Model"] == ["things", "things.Trainer"]


@pytest.mark.parametrize("buckets", [{"eval": 1, "train": 3}, {"train": 3, "eval": 1}], ids=str)
def test_buckets_are_dealt_to_train_then_eval_whatever_the_yaml_says(buckets: dict[str, int], tmp_path: Path) -> None:
    config = write_project(tmp_path, dataset={"input": "all/*.csv", "hash_split": buckets})
    given = example_gen(config.dataset, digest="d1").spec.exec_properties["output_config"]
    found = json_format.Parse(given, example_gen_pb2.Output()).split_config
    assert [(split.name, split.hash_buckets) for split in found.splits] == [("train", 3), ("eval", 1)]


def output_config(config: PipelineConfig) -> Any:
    given = example_gen(config.dataset, digest="d1").spec.exec_properties["output_config"]
    return json_format.Parse(given, example_gen_pb2.Output())


def test_a_keyed_unit_is_split_by_its_key(tmp_path: Path) -> None:
    keyed = write_project(tmp_path / "a", dataset={**HASHED, **KEYED})
    assert output_config(keyed).split_config.partition_feature_name == "person"
    rows = write_project(tmp_path / "b", dataset=HASHED)
    assert output_config(rows).split_config.partition_feature_name == ""


@pytest.mark.parametrize("format_", ["csv", "tfrecord"])
def test_examples_are_made_of_the_private_copy_and_say_of_which_data(format_: str, tmp_path: Path) -> None:
    spec = make_spec(write_project(tmp_path, dataset={"format": format_}))
    node = {found.pipeline_node.node_info.id: found.pipeline_node for found in compile_run(spec).nodes}["ExampleGen"]
    assert parameter(node, "input_base") == str(spec.copied)
    patterns = json_format.Parse(parameter(node, "input_config"), example_gen_pb2.Input()).splits
    assert {one.name: one.pattern for one in patterns} == {"train": "train/*", "eval": "eval/*"}
    assert digest_in({"custom_config": parameter(node, "custom_config")}) == spec.data_digest


def test_a_run_without_a_private_copy_is_not_built(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="private copy"):
        compiled(write_project(tmp_path), copied=None)


def test_transform_may_analyze_in_a_plain_run_alone(tmp_path: Path) -> None:
    def forbidden(config: PipelineConfig) -> Any:
        return json.loads(parameter(compiled(config)["Transform"], "custom_config"))["forbid_analyzers"]

    assert not forbidden(write_project(tmp_path / "a"))
    assert forbidden(write_project(tmp_path / "b", backend="dp_sgd"))


def test_an_inferred_schema_has_its_own_preprocessing(tmp_path: Path) -> None:
    def path_of(config: PipelineConfig) -> Any:
        return parameter(compiled(config)["Transform"], "preprocessing_fn")

    assert path_of(write_project(tmp_path / "a")).endswith("transform.preprocessing.preprocessing_fn")
    assert path_of(write_project(tmp_path / "b", dataset={"schema": "infer"})).endswith(
        "transform.inferred.preprocessing_fn"
    )


def test_a_threshold_does_not_reach_the_trainers_cache_key_but_epochs_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(root: Path, **sections: Any) -> str:
        config = write_project(root, **sections)
        monkeypatch.chdir(root)
        moved = config.model_copy(update={"dataset": config.dataset.model_copy(update={"path": Path("data")})})
        moved = moved.model_copy(update={"ledger": "sqlite:///l"})
        moved = moved.model_copy(
            update={"dataset": moved.dataset.model_copy(update={"schema_path": tmp_path / "a" / "schema.pbtxt"})}
        )
        return str(parameter(compiled(moved)["Trainer"], "config"))

    base = key(tmp_path / "a")
    assert key(tmp_path / "b", evaluation={"thresholds": {"auc": {"min": 0.9}}}) == base
    assert key(tmp_path / "c", training={"epochs": 9}) != base


def test_a_dp_evaluation_takes_the_place_of_the_exact_one(tmp_path: Path) -> None:
    nodes = compiled(write_project(tmp_path, **VARIANTS["dp, evaluated with dp"]))
    assert not {"Evaluator", "Resolver"} & set(nodes)
    for reader in ("PrivacyGate", "RunMetrics"):
        channels = nodes[reader].inputs.inputs["evaluation"].channels
        assert [channel.producer_node_query.id for channel in channels] == ["DpEvaluator"]
    assert "evaluation_blessing" not in nodes["PrivacyGate"].inputs.inputs
    assert set(nodes["DpEvaluator"].inputs.inputs) == {"examples", "model"}


def test_a_threshold_is_the_gates_business_and_costs_no_evaluation(tmp_path: Path) -> None:
    def nodes(least: float, **more: Any) -> dict[str, Any]:
        config = write_project(tmp_path / "a", backend="dp_sgd", evaluation={"dp": DP_EVALUATION})
        changed = {"thresholds": {"accuracy": Threshold(min=least)}, **more}
        made = compiled(config.model_copy(update={"evaluation": config.evaluation.model_copy(update=changed)}))
        shutil.rmtree(tmp_path / "a" / "data")
        return made

    low, high, sliced = nodes(0.5), nodes(0.9), nodes(0.5, slices=[["colour"]])
    assert [parameter(found["PrivacyGate"], "thresholds") for found in (low, high)] == [
        '{"accuracy": 0.5}',
        '{"accuracy": 0.9}',
    ]
    assert low["DpEvaluator"].parameters == high["DpEvaluator"].parameters != sliced["DpEvaluator"].parameters
    assert json.loads(parameter(sliced["DpEvaluator"], "domains")) == {"colour": ["red", "green", "blue"]}
    assert low["Trainer"].parameters == sliced["Trainer"].parameters


def test_evaluator_judges_an_exact_evaluation(tmp_path: Path) -> None:
    assert parameter(compiled(write_project(tmp_path))["PrivacyGate"], "thresholds") == "{}"


def test_the_gate_is_never_served_from_cache(tmp_path: Path) -> None:
    config = write_project(tmp_path)
    for node in ("PrivacyGate", "RunMetrics"):
        assert [parameter(compiled(config, run_id=name)[node], "run_id") for name in ("r-1", "r-2")] == ["r-1", "r-2"]
    assert parameter(compiled(config)["PrivacyGate"], "ledger") == config.ledger
    trainer = [compiled(config, run_id=name)["Trainer"].parameters for name in ("r-1", "r-2")]
    assert trainer[0] == trainer[1]


def test_a_partial_run_skips_the_rest(tmp_path: Path) -> None:
    nodes = compiled(write_project(tmp_path), to_nodes=["Transform"])
    assert nodes["Trainer"].execution_options.HasField("skip")
    assert not nodes["Transform"].execution_options.HasField("skip")


def test_cache_and_beam_arguments_reach_tfx(tmp_path: Path) -> None:
    config = write_project(tmp_path, beam={"args": ["--direct_num_workers=1"]})
    pipeline = build(make_spec(config.model_copy(update={"cache": False})))
    assert not pipeline.enable_cache and "--direct_num_workers=1" in pipeline.beam_pipeline_args
    assert pipeline.pipeline_info.pipeline_root == str(tmp_path / "workspace" / "pipelines" / "things")
