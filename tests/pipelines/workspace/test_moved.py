"""A workspace that was moved or copied: run folders and ML Metadata say where things are now."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.literal_paths import literal
from privacy_pipeline.pipelines.workspace import moved
from privacy_pipeline.pipelines.workspace.metadata import connection_config
from privacy_pipeline.pipelines.workspace.run_state import NodeState
from privacy_pipeline.pipelines.workspace.workspace import RunFolder, Workspace
from tests.pipelines.projects import make_spec, write_project
from tests.pipelines.workspace.test_workspace import make_state
from tests.reports.records import dp_record, make_summary


def put_artifact(store: Path, uri: str) -> None:
    from ml_metadata.metadata_store import metadata_store
    from ml_metadata.proto import metadata_store_pb2 as mlmd

    connection = mlmd.ConnectionConfig()
    connection.sqlite.filename_uri = str(store)
    connection.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    opened = metadata_store.MetadataStore(connection)
    kind = opened.put_artifact_type(mlmd.ArtifactType(name="Model"))
    opened.put_artifacts([mlmd.Artifact(type_id=kind, uri=uri)])


def uris(store: Path) -> list[str]:
    with sqlite3.connect(store) as connection:
        return [uri for (uri,) in connection.execute("SELECT uri FROM Artifact ORDER BY id")]


def times(store: Path) -> list[tuple[int, int]]:
    with sqlite3.connect(store) as connection:
        found = connection.execute("SELECT create_time_since_epoch, last_update_time_since_epoch FROM Artifact")
        return list(found)


def write_run(root: Path, project: Path) -> RunFolder:
    """A finished run of a project, as a run leaves it."""
    config = write_project(project)
    folder = RunFolder(root / "runs/20260101-r0001-aaaa")
    folder.path.mkdir(parents=True)
    model = root / "pipelines/things/Trainer/model/7"
    model.mkdir(parents=True)
    folder.write_spec(make_spec(config, run_dir=folder.path, run_id=folder.run_id))
    pushed = NodeState(status="done", detail=f"to {root}/pushed/things/1")
    folder.write_state(
        make_state(
            run_id=folder.run_id, status="done", nodes={"Pusher": pushed}, report=f"{folder.path}/report/report.html"
        )
    )
    folder.write_summary(make_summary(dp_record(), run_id=folder.run_id, model_uri=str(model / "Format-Serving")))
    put_artifact(root / "metadata.db", str(model))
    return folder


NAMES = ["new", "new name [1] 100%", "wörk'space"]


@pytest.mark.parametrize("copied", [False, True], ids=["moved", "copied"])
@pytest.mark.parametrize("name", NAMES)
def test_what_a_run_left_is_found_where_the_workspace_lies_now(tmp_path: Path, name: str, copied: bool) -> None:
    old, new = tmp_path / "old", tmp_path / name
    before = write_run(old / "workspace", old)
    if copied:
        shutil.copytree(old, new)
    else:
        old.rename(new)
    root = new / "workspace"
    folder = RunFolder(root / "runs" / before.run_id)
    summary, state, spec = folder.read_summary(), folder.read_state(), folder.read_spec()
    assert summary is not None
    assert summary.model_uri == f"{root}/pipelines/things/Trainer/model/7/Format-Serving"
    assert state.report == f"{folder.path}/report/report.html"
    assert state.nodes["Pusher"].detail == f"to {root}/pushed/things/1"
    assert spec.run_dir == folder.path and spec.config.workspace == root
    assert Workspace(spec.config).root == root
    stamps = times(root / "metadata.db")
    connection = connection_config(spec.config)
    assert connection.sqlite.filename_uri == str(root / "metadata.db")
    assert uris(root / "metadata.db") == [f"{literal(root)}/pipelines/things/Trainer/model/7"]
    assert times(root / "metadata.db") == stamps  # they are part of TFX's cache keys
    if copied:
        assert uris(old / "workspace/metadata.db") == [f"{old}/workspace/pipelines/things/Trainer/model/7"]


def test_a_path_that_only_looks_like_the_former_place_stays(tmp_path: Path) -> None:
    folder = tmp_path / "there/runs/r"
    spec = json.dumps({"run_dir": "/w/runs/r"}).encode()
    content = b'{"a": "/w/x", "b": "/data/w/x", "c": "/w2/x", "d": "to /w/x", "e": "/w", "f": "sqlite:////w/x"}'
    now = str(tmp_path / "there").encode()
    expected = content.replace(b'"/w/x"', b'"' + now + b'/x"').replace(b"to /w/x", b"to " + now + b"/x")
    expected = expected.replace(b'"/w"', b'"' + now + b'"')
    assert moved.as_of_now(content, spec=spec, folder=folder) == expected
    assert moved.as_of_now(content, spec=b"{}", folder=folder) == content


def test_what_was_not_copied_along_is_not_looked_for_in_the_former_place(tmp_path: Path) -> None:
    root = tmp_path / "workspace"
    (root / "pipelines/a").mkdir(parents=True)
    store = root / "metadata.db"
    for uri in ("/elsewhere/pipelines/a", "/elsewhere/pipelines/b", "/no/such/place", f"{root}/pipelines/gone"):
        put_artifact(store, uri)
    assert moved.follow(store=store, root=root) == 2
    assert uris(store) == [
        f"{root}/pipelines/a",
        f"{root}/pipelines/b",
        "/no/such/place",
        f"{root}/pipelines/gone",
    ]
    assert moved.follow(store=store, root=root) == 0


def test_a_store_outside_of_the_workspace_is_left_alone(tmp_path: Path) -> None:
    root, store = tmp_path / "workspace", tmp_path / "shared.db"
    (root / "pipelines/a").mkdir(parents=True)
    put_artifact(store, "/elsewhere/pipelines/a")
    assert moved.follow(store=store, root=root) == 0
    assert uris(store) == ["/elsewhere/pipelines/a"]


def test_no_store_and_a_damaged_one(tmp_path: Path) -> None:
    store = tmp_path / "metadata.db"
    assert moved.follow(store=store, root=tmp_path) == 0
    store.write_bytes(b"this is no database, of more than a page of its header" * 20)
    with pytest.raises(BadInputError, match=r"metadata.db: its paths cannot be updated"):
        moved.follow(store=store, root=tmp_path)


def test_a_store_whose_tables_another_run_is_about_to_make_is_left_to_it(tmp_path: Path) -> None:
    store = tmp_path / "metadata.db"
    store.touch()
    assert moved.follow(store=store, root=tmp_path) == 0
    with sqlite3.connect(store) as connection:
        connection.execute("CREATE TABLE Type (id INTEGER)")
    assert moved.follow(store=store, root=tmp_path) == 0
