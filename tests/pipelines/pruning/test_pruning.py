"""`workspace prune`: a planted row is found nowhere below the workspace, and what was spent stays spent."""

from __future__ import annotations

import datetime
import fcntl
import gzip
import json
import os
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from privacy_pipeline.cli.main import app
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.files.literal_paths import literal
from privacy_pipeline.pipelines.execution import runs
from privacy_pipeline.pipelines.preflight import spending
from privacy_pipeline.pipelines.pruning import pruned_metadata, pruning, pruning_plan
from privacy_pipeline.pipelines.pruning.pruning_plan import Criteria
from privacy_pipeline.pipelines.workspace import serving_model
from privacy_pipeline.pipelines.workspace.run_state import Failure, NodeState
from privacy_pipeline.pipelines.workspace.workspace import RunFolder, Workspace
from privacy_pipeline.reports.record.summary import SliceMetrics
from tests.pipelines.planted import found_below, needles
from tests.pipelines.projects import make_spec, write_project
from tests.pipelines.workspace.test_workspace import hold, make_state
from tests.reports.records import dp_record, make_summary

TEXT, NUMBER = "zyx-canary-Q7", 74213.0625
NEEDLES = needles(TEXT, NUMBER)
BYTES = TEXT.encode() + struct.pack("<fd", NUMBER, NUMBER)


class Filled:
    """A workspace as runs leave it, each artifact with the planted row in it, without TFX.

    Args:
        root: of the project.
        spelled: how ML Metadata names the workspace's folders.
        metadata: where ML Metadata lies, if it is not in the workspace.
    """

    def __init__(self, root: Path, *, spelled: Callable[[Path], Path] = Path, metadata: Path | None = None) -> None:
        from ml_metadata.metadata_store import metadata_store
        from ml_metadata.proto import metadata_store_pb2 as mlmd

        self.root, self.mlmd, self.spelled = root, mlmd, spelled
        self.config = write_project(root)
        if metadata is not None:
            shared = self.config.metadata.model_copy(update={"path": metadata})
            self.config = self.config.model_copy(update={"metadata": shared})
        self.workspace = Workspace(self.config)
        self.workspace.prepare()
        connection = mlmd.ConnectionConfig()
        connection.sqlite.filename_uri = str(self.workspace.metadata_path)
        connection.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        self.store: Any = metadata_store.MetadataStore(connection)

    def run(self, run_id: str, *, served_by: str = "", **changes: Any) -> RunFolder:
        """A finished run; with `served_by`, TFX served its nodes from another run's artifacts."""
        folder = RunFolder(self.workspace.runs / run_id)
        folder.path.mkdir()
        config = changes.pop("config", self.config)
        dataset = config.dataset.model_copy(update={"positive_class": TEXT})  # as `init` reads it off the data
        spec = make_spec(config, run_dir=folder.path, run_id=run_id)
        folder.write_spec(spec.model_copy(update={"config": config.model_copy(update={"dataset": dataset})}))
        node = NodeState(status="cached" if served_by else "done", detail=f"saw {TEXT}")
        failure = Failure(node="Trainer", message=f"bad cell {TEXT}, {NUMBER}", fix=TEXT, exit_code=1)
        nodes = dict.fromkeys(("ExampleGen", "Trainer"), node)
        given = {
            "run_id": run_id,
            "status": "done",
            "nodes": nodes,
            "failure": failure,
            "ended": "2026-01-02T00:00:00+00:00",
        }
        folder.write_state(make_state(**(given | changes)))
        slices = [
            SliceMetrics(name=name, examples=9, metrics={"accuracy": 0.5}) for name in ("overall", f"note={TEXT}")
        ]
        reasons = [f"accuracy of note={TEXT} is below 0.9"]
        model = self.workspace.pipeline_root / f"Trainer/model/{run_id}"
        folder.write_summary(
            make_summary(dp_record(), run_id=run_id, model_uri=str(model), slices=slices, blessed=False).model_copy(
                update={"reasons": reasons, "evaluation_reasons": reasons}
            )
        )
        (folder.path / "log.txt").write_bytes(BYTES)
        (folder.path / "attacks.json").write_text(json.dumps([TEXT]))
        (folder.path / "audits.json").write_text("[]")
        (folder.path / "data").mkdir()
        (folder.path / "data/rows.csv").write_bytes(BYTES)  # as a later version may keep a copy there
        self._published(run_id, served_by)
        return folder

    def _published(self, run_id: str, served_by: str) -> None:
        mlmd = self.mlmd
        pipeline, run = (self._context(kind, name) for kind, name in (("pipeline", "things"), ("pipeline_run", run_id)))
        kind = self.store.put_execution_type(mlmd.ExecutionType(name="Node"))
        execution = mlmd.Execution(type_id=kind, last_known_state=mlmd.Execution.COMPLETE)
        execution.custom_properties["__execution_result__"].string_value = f"unexpected {TEXT} and {NUMBER!r}"
        artifacts = self._made_by(served_by) if served_by else [self._artifact(*one) for one in ARTIFACTS]
        event = mlmd.Event(type=mlmd.Event.OUTPUT)
        number, _, _ = self.store.put_execution(execution, [(one, event) for one in artifacts], [pipeline, run])
        if not served_by:
            self._files(number, run_id)

    def _made_by(self, run_id: str) -> list[Any]:
        context = self.store.get_context_by_type_and_name("pipeline_run", run_id)
        found: list[Any] = self.store.get_artifacts_by_context(context.id)
        return found

    def _context(self, kind: str, name: str) -> Any:
        type_id = self.store.put_context_type(self.mlmd.ContextType(name=kind))
        known = self.store.get_context_by_type_and_name(kind, name)
        if known is None:
            self.store.put_contexts([self.mlmd.Context(type_id=type_id, name=name)])
        return self.store.get_context_by_type_and_name(kind, name)

    def _artifact(self, kind: str, place: str) -> Any:
        type_id = self.store.put_artifact_type(self.mlmd.ArtifactType(name=kind))
        number = 1 + len(self.store.get_executions())
        uri = f"{self.spelled(self.workspace.pipeline_root)}/{place}/{number}"
        made = self.mlmd.Artifact(type_id=type_id, uri=uri, state=self.mlmd.Artifact.LIVE)
        name = "pushed_destination" if kind == "PushedModel" else "note"
        pushed = f"{self.workspace.push_directory}/{number}"
        made.custom_properties[name].string_value = pushed if kind == "PushedModel" else TEXT
        return made

    def _files(self, number: int, run_id: str) -> None:
        root = self.workspace.pipeline_root
        for _, place in ARTIFACTS:
            (root / place / str(number)).mkdir(parents=True)
        (root / f"Trainer/privacy_record/{number}/privacy_record.json").write_text("{}")
        with gzip.open(root / f"ExampleGen/examples/{number}/rows.gz", "wb") as stream:
            stream.write(BYTES)
        np.savez_compressed(root / f"Trainer/model/{number}/state.npz", rows=np.array([NUMBER], np.float32))
        (root / f"Transform/transform_graph/{number}/vocabulary").write_bytes(BYTES)
        for place in (f"ExampleGen/.system/executor_execution/{number}/.temp", ".attempts/killed", ".schemas"):
            (root / place).mkdir(parents=True, exist_ok=True)
            (root / place / "part").write_bytes(BYTES)
        (root / "ExampleGen/examples/77").mkdir(exist_ok=True)  # of a process that was killed before it said so
        (root / "ExampleGen/examples/77/part").write_bytes(BYTES)
        pushed = self.workspace.push_directory / str(number)
        pushed.mkdir(parents=True)
        (pushed / "assets").write_bytes(BYTES)

    def planted(self) -> list[str]:
        return found_below(self.workspace.root, NEEDLES)

    def remove(self, **criteria: Any) -> pruning_plan.Plan:
        return pruning.remove(self.workspace.root, Criteria(**criteria))


ARTIFACTS = (
    ("Examples", "ExampleGen/examples"),
    ("TransformGraph", "Transform/transform_graph"),
    ("Model", "Trainer/model"),
    ("PrivacyRecord", "Trainer/privacy_record"),
    ("PushedModel", "Pusher/pushed_model"),
)


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    return Filled(tmp_path)


def test_a_planted_row_is_found_nowhere_after_it(filled: Filled) -> None:
    folder = filled.run("run-1")
    before = filled.planted()
    places = ("metadata.db", "log.txt", "rows.gz", "state.npz", "vocabulary", "run.json", "summary.json", "pushed")
    for place in (*places, "spec.json"):
        assert any(place in found for found in before), place
    told = pruning.plan(filled.workspace.root, Criteria(dataset="things"))
    assert filled.planted() == before  # nothing was removed
    removed = filled.remove(dataset="things")
    assert removed.paths == told.paths and removed.size == told.size > 0
    assert filled.planted() == []
    assert folder.read_state().pruned == datetime.date.today().isoformat()
    summary = folder.read_summary()
    assert summary is not None and summary.record == dp_record() and summary.overall.metrics == {"accuracy": 0.5}
    assert list(filled.workspace.pipeline_root.glob("Trainer/privacy_record/*/privacy_record.json"))


def test_what_other_runs_use_stays_until_they_go_too(filled: Filled) -> None:
    filled.run("run-1")
    filled.run("run-2", served_by="run-1")
    found = filled.remove(runs=("run-1",))
    assert {name for names in found.shared.values() for name in names} == {"run-2"}
    examples = filled.workspace.pipeline_root / "ExampleGen/examples"
    assert (examples / "1/rows.gz").is_file() and not (examples / "77").exists()
    assert filled.store.get_artifacts_by_type("Examples")[0].custom_properties
    filled.remove(runs=("run-2",))
    assert filled.planted() == []


def test_a_workspace_whose_path_is_taken_for_a_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "links"))
    filled = Filled(tmp_path / "my project [v2]", spelled=literal)
    filled.run("run-1")
    filled.run("run-2", served_by="run-1")
    filled.remove(runs=("run-1",))
    assert (filled.workspace.pipeline_root / "ExampleGen/examples/1/rows.gz").is_file()
    filled.remove(dataset="things")
    assert filled.planted() == []


def test_the_command_shows_what_it_would_remove_and_asks_for_yes(filled: Filled) -> None:
    filled.run("run-1")
    where = ["--workspace", str(filled.workspace.root)]
    told = CliRunner().invoke(app, ["workspace", "prune", "--dataset", "things", *where])
    assert told.exit_code == 0 and "nothing was removed: add --yes" in told.output and "log.txt" in told.output
    assert filled.planted()
    assert CliRunner().invoke(app, ["workspace", "prune", *where]).exit_code == 2
    done = CliRunner().invoke(app, ["workspace", "prune", "--run", "run-1", "--yes", "--json", *where])
    assert json.loads(done.stdout)["removed"] and filled.planted() == []
    again = CliRunner().invoke(app, ["workspace", "prune", "--dataset", "things", "--yes", *where])
    assert "nothing to remove" in again.output
    rows = json.loads(CliRunner().invoke(app, ["runs", "--json", *where]).stdout)
    assert rows[0]["pruned"] and rows[0]["accuracy"] == 0.5
    shown = CliRunner().invoke(app, ["show", "run-1", *where])
    assert "run run-1 was pruned on" in shown.output


def test_a_run_that_was_served_as_a_whole_keeps_the_one_it_points_to(filled: Filled) -> None:
    filled.run("run-1")
    folder = RunFolder(filled.workspace.runs / "run-2")
    folder.path.mkdir()
    folder.write_spec(make_spec(filled.config, run_dir=folder.path, run_id="run-2"))
    folder.write_state(make_state(run_id="run-2", status="done", cached_from="run-1"))
    assert filled.remove(runs=("run-1",)).shared
    assert (filled.workspace.pipeline_root / "ExampleGen/examples/1/rows.gz").is_file()


def test_runs_of_another_workspace_that_shares_metadata_keep_what_it_says(tmp_path: Path) -> None:
    shared = tmp_path / "shared.db"
    ours, theirs = (Filled(tmp_path / name, metadata=shared) for name in ("ours", "theirs"))
    ours.run("run-1")
    theirs.run("run-2")
    begun = theirs.store.get_context_by_type_and_name("pipeline_run", theirs._context("pipeline_run", "run-3").name)
    kind = theirs.store.put_execution_type(theirs.mlmd.ExecutionType(name="Node"))
    execution = theirs.mlmd.Execution(type_id=kind, last_known_state=theirs.mlmd.Execution.RUNNING)
    execution.custom_properties["key"].string_value = "of a node that runs"
    theirs.store.put_execution(execution, [], [theirs._context("pipeline", "things"), begun])
    ours.remove(dataset="things")
    assert ours.planted() == [] and theirs.planted()

    def said(run_id: str) -> list[str]:
        context = ours.store.get_context_by_type_and_name("pipeline_run", run_id)
        messages = [*ours.store.get_executions_by_context(context.id), *ours.store.get_artifacts_by_context(context.id)]
        return [name for message in messages if message.type != "PushedModel" for name in message.custom_properties]

    assert said("run-1") == [] and len(said("run-2")) > 1 and said("run-3") == ["key"]


def test_runs_are_chosen_by_age_and_by_dataset(filled: Filled, tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    filled.run("old")
    filled.run("new", ended=now)
    dataset = filled.config.dataset.model_copy(update={"name": "others"})
    filled.run("others", config=filled.config.model_copy(update={"dataset": dataset}))
    root = filled.workspace.root

    def meant(**criteria: Any) -> list[str]:
        return [run.run_id for run in pruning.plan(root, Criteria(**criteria)).runs]

    assert meant(older_than=1) == ["old", "others"]
    assert meant(older_than=0) == ["new", "old", "others"]
    assert meant(dataset="things") == ["new", "old"]
    assert meant(dataset="things", older_than=1) == ["old"]
    assert meant(runs=("new",), dataset="others") == []
    with pytest.raises(BadInputError, match="no run is chosen"):
        meant()
    with pytest.raises(BadInputError, match="no run 'gone'"):
        meant(runs=("gone",))
    with pytest.raises(BadInputError, match="is on dataset 'thing'"):
        meant(dataset="thing")
    with pytest.raises(BadInputError, match="there is no such workspace"):
        pruning.plan(root / "elsewhere", Criteria(dataset="things"))


def test_a_run_in_progress_is_refused(filled: Filled) -> None:
    folder = filled.run("run-1")
    filled.run("run-2")
    other = hold(folder)
    try:
        with pytest.raises(PipelineError, match="run run-1 is in progress"):
            filled.remove(runs=("run-2",))
    finally:
        other.kill()
        other.wait()
    assert not folder.read_state().pruned


def test_no_run_begins_while_rows_are_removed(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = filled.run("run-1")

    def begin(_: Path) -> None:
        with pytest.raises(PipelineError, match="is being pruned by another process"), folder.lock():
            raise AssertionError("it began")

    monkeypatch.setattr(pruning, "_remove", begin)
    filled.remove(runs=("run-1",))


@pytest.mark.parametrize("at", ["first", "last", "metadata", "compact", "scrub"])
def test_a_removal_that_was_killed_is_ended_by_the_next(
    filled: Filled, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    folder = filled.run("run-1")
    last = pruning.plan(filled.workspace.root, Criteria(dataset="things")).paths[-1]

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    removing = pruning._remove

    def removed(path: Path) -> None:
        if at == "first" or path == last:
            raise KeyboardInterrupt
        removing(path)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        if at in ("first", "last"):
            patched.setattr(pruning, "_remove", removed)
        elif at == "scrub":
            patched.setattr(pruning.pruned_files, "scrub", killed)
        else:
            name = "forget" if at == "metadata" else "compact"
            patched.setattr(pruned_metadata.MetadataOfRuns, name, killed)
        filled.remove(runs=("run-1",))
    assert "prune it again" in folder.read_state().was_pruned and filled.planted()
    filled.run("run-9", config=_other(filled.config))
    filled.remove(runs=("run-9",))  # whatever is asked for next
    assert filled.planted() == []


def _other(config: PipelineConfig) -> PipelineConfig:
    return config.model_copy(update={"dataset": config.dataset.model_copy(update={"name": "others"})})


def test_free_pages_of_metadata_hold_nothing(filled: Filled) -> None:
    """TFX itself writes properties over and over, so what is overwritten lies in free pages."""
    filled.run("run-1")
    assert filled.workspace.metadata_path is not None
    with sqlite3.connect(filled.workspace.metadata_path) as connection:
        connection.execute("PRAGMA secure_delete=OFF")
        connection.execute("CREATE TABLE gone (text TEXT)")
        connection.executemany("INSERT INTO gone VALUES (?)", [(TEXT * 50,)] * 200)
        connection.commit()
        connection.execute("DROP TABLE gone")
    connection.close()
    filled.remove(dataset="things")
    assert filled.planted() == []


def test_a_write_ahead_log_of_metadata_holds_nothing(filled: Filled) -> None:
    filled.run("run-1")
    path = filled.workspace.metadata_path
    assert path is not None
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    filled.remove(dataset="things")
    assert filled.planted() == []
    connection.close()


def test_links_are_removed_and_not_followed(filled: Filled, tmp_path: Path) -> None:
    filled.run("run-1")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "rows.csv").write_bytes(BYTES)
    for place in (filled.workspace.pipeline_root / ".spans", filled.workspace.runs / "run-1/link"):
        os.symlink(outside, place)
    filled.remove(dataset="things")
    assert (outside / "rows.csv").is_file() and filled.planted() == []


def test_models_pushed_elsewhere_or_on_purpose_stay_and_are_named(filled: Filled) -> None:
    filled.run("run-1")
    found = filled.remove(runs=("run-1",), keep_pushed=True)
    (told,) = found.left
    assert str(filled.workspace.push_directory) in told and filled.planted()
    filled.remove(runs=("run-1",))  # the same run again, now with what it pushed
    assert filled.planted() == []


def test_copies_of_killed_processes_and_starts_go_too(filled: Filled) -> None:
    filled.run("run-1")
    copy, used, begun = (
        filled.workspace.root / place for place in (".reading/a", ".reading/b", "runs/20260101-r0001-abcd")
    )
    notes = filled.workspace.runs / "my notes"
    notes.mkdir()
    os.utime(notes, (0, 0))
    for folder in (copy, used, begun):
        folder.mkdir(parents=True)
        (folder / "rows.csv").write_bytes(BYTES)
    os.utime(begun, (0, 0))
    with (used / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a registration reads it
        filled.remove(dataset="things")
        assert used.exists() and notes.exists() and not copy.exists() and not begun.exists()


def test_a_run_that_cannot_be_read_is_told_of(filled: Filled) -> None:
    filled.run("run-1")
    (filled.run("run-2").path / "run.json").write_text("{}")
    found = filled.remove(dataset="things")
    assert [run.run_id for run in found.runs] == ["run-1"]
    assert "run run-2 cannot be read, and was not chosen" in found.left[0]
    assert (filled.workspace.pipeline_root / "ExampleGen/examples/2").exists()


def test_without_its_metadata_a_pipeline_goes_as_a_whole_or_not_at_all(filled: Filled) -> None:
    filled.run("run-1")
    filled.run("run-2")
    assert filled.workspace.metadata_path is not None
    filled.workspace.metadata_path.unlink()
    with pytest.raises(BadInputError, match="the files that run run-2 uses are unknown"):
        filled.remove(runs=("run-1",))
    filled.remove(dataset="things")
    assert [found for found in filled.planted() if "pushed" not in found] == []


def test_later_commands_say_that_the_run_was_pruned(filled: Filled) -> None:
    folder = filled.run("run-1", status="failed", training_fingerprint="t")
    state = make_state(run_id="next", training_fingerprint="t")
    assert spending.executed_before(filled.workspace, state, "Trainer")
    filled.remove(runs=("run-1",))
    assert not spending.executed_before(filled.workspace, state, "Trainer")  # so it is charged again
    told = "run run-1 was pruned on"
    with pytest.raises(BadInputError, match=told):
        runs.resume(folder=folder, on_start=lambda _: None, on_event=lambda *_: None)
    summary = folder.read_summary()
    assert summary is not None
    folder.write_summary(summary.model_copy(update={"blessed": True}))
    with pytest.raises(BadInputError, match=told):
        serving_model.find_model("run-1", workspace=filled.workspace.root)


@pytest.mark.parametrize("name", ["federated", "."])
def test_checkpoints_of_experiments_go_and_their_rounds_stay(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / "sweep/abc-s0"
    folder.mkdir(parents=True)
    point = {"config": {"data": {"dataset": {"name": "people"}}}}
    (folder / "point.json").write_text(json.dumps(point))
    for kept in ("rounds.jsonl", "summary.json", "privacy_record.json", "lock"):
        (folder / kept).touch()
    for made in ("tensorboard", ".attempts/killed/engine"):
        (folder / made).mkdir(parents=True)
    (folder / ".attempts/killed/lock").touch()
    for gone in ("checkpoint.npz", ".checkpoint.npz.x1y2", "tensorboard/events", ".attempts/killed/engine/key.json"):
        (folder / gone).write_bytes(BYTES)
    assert not pruning.remove(tmp_path, Criteria(older_than=1)).paths
    with (folder / "lock").open() as lock:
        _in_progress(lock, lambda: pruning.remove(tmp_path, Criteria(dataset="people")))
    found = pruning.remove(tmp_path, Criteria(dataset="people"))
    assert [run.run_id for run in found.runs] == ["sweep-abc-s0"]
    assert [path.name for path in (folder / ".attempts").rglob("*")] == ["killed", "lock"]
    assert sorted(path.name for path in folder.iterdir()) == [
        ".attempts",
        "lock",
        "point.json",
        "privacy_record.json",
        "rounds.jsonl",
        "summary.json",
    ]


def test_no_run_of_an_experiment_begins_while_its_files_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "federated/sweep/abc-s0"
    folder.mkdir(parents=True)
    (folder / "point.json").write_text(json.dumps({"config": {"data": {"dataset": {"name": "people"}}}}))
    for name in ("lock", "checkpoint.npz"):
        (folder / name).touch()
    asked = []

    def begin(path: Path) -> None:
        with (folder / "lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        asked.append(path.name)

    monkeypatch.setattr(pruning, "_remove", begin)
    pruning.remove(tmp_path, Criteria(dataset="people"))
    assert asked == ["checkpoint.npz"]


def _in_progress(lock: Any, act: Callable[[], object]) -> None:
    fcntl.flock(lock, fcntl.LOCK_SH)
    with pytest.raises(PipelineError, match="run sweep-abc-s0 is in progress"):
        act()
    fcntl.flock(lock, fcntl.LOCK_UN)
