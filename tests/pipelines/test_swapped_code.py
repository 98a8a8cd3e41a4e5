"""Schema and code are read once: what was digested is what is parsed, built and recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.backends.isolated.visible import Private, visible
from privacy_pipeline.components.trainer.executor import _schema_is_public
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.read_once import reading_once
from privacy_pipeline.pipelines.execution import runs, worker
from privacy_pipeline.pipelines.graph import build, cache_keys
from privacy_pipeline.pipelines.preflight import preflight
from privacy_pipeline.pipelines.workspace.run_state import RunState
from privacy_pipeline.pipelines.workspace.workspace import RunFolder, Workspace
from tests.pipelines.projects import SCHEMA, make_spec, write_project

MODEL = "import own_parts\ndef build_model(context): return own_parts.NAME\n"


def start(config: PipelineConfig) -> tuple[RunFolder, RunState]:
    return runs.start(
        config=config,
        config_path=Path("c.yaml"),
        from_nodes=[],
        to_nodes=[],
        on_start=lambda folder: None,
        on_event=lambda event, state: None,
    )


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PipelineConfig:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_model.py").write_text(MODEL)
    (tmp_path / "own_parts.py").write_text("NAME = 'reviewed'\n")
    (tmp_path / "words.txt").write_text("public words")
    model = {"use": "own_model", "files": ["words.txt"], "trust": "reviewed"}
    return write_project(tmp_path, model=model)


def test_a_schema_that_is_swapped_after_any_reading_is_the_first_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The swap comes after the first of several readings; features and digest are of that one."""
    config = write_project(tmp_path)
    path, wide = tmp_path / "schema.pbtxt", SCHEMA.replace("max: 10", "max: 99")
    real, times = preflight.schema_reader.schema_bytes, list[int]()

    def bytes_of(schema_path: Path) -> bytes:
        found = real(schema_path)
        times.append(1)
        path.write_text(wide)
        return found

    monkeypatch.setattr(preflight.schema_reader, "schema_bytes", bytes_of)
    monkeypatch.setattr(runs, "execute", lambda *, folder, state, on_event: state)
    spec = start(config)[0].read_spec()
    assert spec.features is not None and max(column.maximum or 0 for column in spec.features.columns) == 10
    path.write_text(SCHEMA)
    assert len(times) > 1 and spec.schema_digest == preflight.schema_digest(path)


def test_the_schema_that_the_worker_checked_is_pinned_and_recorded(tmp_path: Path) -> None:
    config = write_project(tmp_path)
    path = tmp_path / "schema.pbtxt"
    spec = make_spec(config, schema_digest=preflight.schema_digest(path))
    with reading_once():  # as the worker does before it forks
        pinned = build._pinned(path, spec, Workspace(config))
        path.write_text(SCHEMA.replace('name: "size"', 'name: "size" annotation { tag: "unreviewed" }', 1))
        assert build._pinned(path, spec, Workspace(config)).read_text() == pinned.read_text() == SCHEMA
        assert _schema_is_public(config)
    with reading_once(), pytest.raises(BadInputError, match="changed since the run was checked"):
        build._pinned(path, spec, Workspace(config))


@pytest.mark.parametrize("name", ["own_model.py", "own_parts.py", "words.txt"])
def test_code_that_is_swapped_before_the_worker_reads_it_is_refused(
    project: PipelineConfig, tmp_path: Path, name: str
) -> None:
    spec = make_spec(project, code=cache_keys.code_hash(project))
    worker._require_same_code(spec)
    (tmp_path / name).write_text((tmp_path / name).read_text() + "# swapped\n")
    with pytest.raises(BadInputError, match="changed while the run started; nothing is charged"):
        worker._require_same_code(spec)


def test_code_that_is_swapped_after_the_worker_read_it_is_not_built(project: PipelineConfig, tmp_path: Path) -> None:
    apart = project.model_copy(update={"model": project.model.model_copy(update={"trust": None})})
    with reading_once():
        worker._require_same_code(make_spec(apart, code=cache_keys.code_hash(apart)))
        for name in ("own_model.py", "own_parts.py", "words.txt"):
            (tmp_path / name).write_text("NAME = 'swapped'\ndef build_model(context): return 'swapped'\n")
        (tmp_path / "own_more.py").write_text("")
        seen = visible(apart.model, Private.of(apart)).files
    assert {path.name: content.decode() for path, content in seen.items()} == {
        "own_model.py": MODEL,
        "own_parts.py": "NAME = 'reviewed'\n",
        "words.txt": "public words",
    }


def test_the_worker_tells_of_swapped_code_and_starts_no_node(
    project: PipelineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from privacy_pipeline.pipelines.execution import scheduler

    told = list[Any]()
    monkeypatch.setattr(scheduler, "fd_emitter", lambda fd: told.append)
    monkeypatch.setattr(scheduler, "run_nodes", lambda **given: pytest.fail("a node was started"))
    monkeypatch.setattr(worker, "die_with_parent", lambda parent: None)
    folder = Workspace(project).new_run()
    folder.write_spec(make_spec(project, code=cache_keys.code_hash(project), run_dir=folder.path))
    folder.write_state(
        RunState(
            run_id="r",
            pipeline="p",
            config_path="c",
            backend="plain",
            fingerprint="f",
            training_fingerprint="t",
            started="now",
        )
    )
    (tmp_path / "own_parts.py").write_text("NAME = 'swapped'\n")
    with pytest.raises(BadInputError):
        worker.main(str(folder.path), 0, 0)
    assert [json.loads(event.model_dump_json())["exit_code"] for event in told] == [2]
