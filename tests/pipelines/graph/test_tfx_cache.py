"""TFX's cache knows a node by content, code and versions, wherever the workspace lies."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tfx.components.example_gen.utils import FINGERPRINT_PROPERTY_NAME
from tfx.orchestration.portable import cache_utils
from tfx.proto.orchestration import pipeline_pb2
from tfx.types import standard_artifacts

from privacy_pipeline.components.artifacts import is_whole
from privacy_pipeline.pipelines.graph import tfx_cache
from privacy_pipeline.pipelines.graph.tfx_cache import CacheKeys
from tests.pipelines.projects import make_spec, write_project

KEYS = CacheKeys(workspace=Path("/p/workspace"), project=Path("/p"), data="hmac-sha256:1", code="c", lock="l")
GIVEN = {
    "input_base": "/p/data",
    "input_config": "train/*",
    FINGERPRINT_PROPERTY_NAME: "split:train,num_files:1,total_bytes:9,xor_checksum:7,sum_checksum:7",
}


def examples(uri: str, fingerprint: str = "sizes and times") -> Any:
    made = standard_artifacts.Examples()
    made.uri = uri
    made.id = 3
    made.set_string_custom_property(FINGERPRINT_PROPERTY_NAME, fingerprint)
    return made


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The name of the cache's context for some keys and parts, by TFX's own code around ours."""

    def named(metadata_handle: Any, context_type_name: str, context_name: str) -> Any:
        return SimpleNamespace(name=context_name, id=1)

    monkeypatch.setattr(cache_utils.context_lib, "register_context_if_not_exists", named)
    stock, outputs = cache_utils.get_cache_context, cache_utils.get_cached_outputs

    def made(keys: CacheKeys | None, node: str = "ExampleGen", *, uri: str = "", **parameters: Any) -> str:
        monkeypatch.setattr(cache_utils, "get_cache_context", stock)
        monkeypatch.setattr(cache_utils, "get_cached_outputs", outputs)
        if keys is not None:
            tfx_cache.install(keys)
        found = cache_utils.get_cache_context(
            metadata_handle=None,
            pipeline_node=pipeline_pb2.PipelineNode(node_info=pipeline_pb2.NodeInfo(id=node)),
            pipeline_info=pipeline_pb2.PipelineInfo(id="things"),
            executor_spec=None,
            input_artifacts={"examples": [examples(uri)]} if uri else {},
            output_artifacts={"examples": [examples("/p/workspace/out", parameters.pop("made_of", "x"))]},
            parameters=parameters,
        )
        return str(found.name)

    return made


def test_the_stock_key_of_data_is_of_sizes_and_times_alone(key: Any) -> None:
    """What is mended: other content of one size and time has the stock key of before."""
    other = dataclasses.replace(KEYS, data="hmac-sha256:2")
    assert key(None, **GIVEN) == key(None, **GIVEN)
    assert key(KEYS, **GIVEN) != key(other, **GIVEN)


@pytest.mark.parametrize("part", ["code", "lock"])
@pytest.mark.parametrize("node", ["StatisticsGen", "SchemaGen", "Transform", "Evaluator"])
def test_code_and_packages_are_in_the_key_of_every_node(key: Any, node: str, part: str) -> None:
    changed = dataclasses.replace(KEYS, **{part: "another"})
    assert key(KEYS, node, uri="/p/workspace/pipelines/x") != key(changed, node, uri="/p/workspace/pipelines/x")


def test_places_and_times_are_not(key: Any) -> None:
    there = dataclasses.replace(KEYS, workspace=Path("/q/r/workspace"), project=Path("/q/r"))
    touched = {**GIVEN, FINGERPRINT_PROPERTY_NAME: GIVEN[FINGERPRINT_PROPERTY_NAME].replace("7", "8")}
    assert key(KEYS, **GIVEN) == key(there, **{**touched, "input_base": "/q/r/data"}, made_of="y")
    schema = "workspace/pipelines/things/.schemas/abc.pbtxt"
    assert key(KEYS, "SchemaGen", schema_file=f"/p/{schema}") == key(there, "SchemaGen", schema_file=f"/q/r/{schema}")
    assert key(KEYS, "StatisticsGen", uri="/p/workspace/pipelines/1") == key(
        there, "StatisticsGen", uri="/q/r/workspace/pipelines/1"
    )


def test_what_a_node_is_asked_for_stays_in_the_key(key: Any) -> None:
    assert key(KEYS, **GIVEN) != key(KEYS, **{**GIVEN, "input_config": "other/*"})
    assert key(KEYS, "StatisticsGen", uri="/p/workspace/pipelines/1") != key(
        KEYS, "StatisticsGen", uri="/p/workspace/pipelines/2"
    )
    assert key(KEYS, "SchemaGen", schema_file="/p/a") != key(KEYS, "SchemaGen", schema_file="/p/b")
    assert key(KEYS, "A") != key(KEYS, "B")


def model(folder: Path) -> Any:
    made = standard_artifacts.Model()
    made.uri = str(folder)
    (folder / "Format-Serving").mkdir(parents=True)
    (folder / "Format-Serving/saved_model.pb").write_bytes(b"x")
    return made


def test_a_cached_result_of_which_a_part_is_gone_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = model(tmp_path / "model")
    monkeypatch.setattr(cache_utils, "get_cache_context", cache_utils.get_cache_context)
    monkeypatch.setattr(cache_utils, "get_cached_outputs", lambda **_: {"model": [found]})
    tfx_cache.install(KEYS)
    asked: dict[str, Any] = {"metadata_handle": None, "cache_context": None}
    assert cache_utils.get_cached_outputs(**asked) == {"model": [found]}
    (tmp_path / "model/Format-Serving/saved_model.pb").unlink()
    assert not is_whole(found)
    assert cache_utils.get_cached_outputs(**asked) is None


def test_keys_are_of_the_run(tmp_path: Path) -> None:
    config = write_project(tmp_path)
    keys = CacheKeys.of(make_spec(config, data_digest="hmac-sha256:9", lock="1"))
    assert (keys.data, keys.lock, keys.workspace) == ("hmac-sha256:9", "1", tmp_path / "workspace")
    assert keys.project == Path(os.getcwd()) and len(keys.code) == 64
