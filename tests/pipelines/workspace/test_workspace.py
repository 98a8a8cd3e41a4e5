"""Run folders on disk: states, locks, and finding a run by what a person types."""

from __future__ import annotations

import datetime
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.pipelines.workspace.run_state import Failure, NodeState, RunState
from privacy_pipeline.pipelines.workspace.workspace import RunFolder, Workspace, find_run, run_folders
from tests.pipelines.projects import make_spec, write_project
from tests.reports.records import dp_record, make_summary

HOLD = """
import sys
from pathlib import Path
from privacy_pipeline.pipelines.workspace.workspace import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def make_state(**changes: Any) -> RunState:
    values: dict[str, Any] = {
        "run_id": "run-1",
        "pipeline": "things",
        "config_path": "configs/things.yaml",
        "backend": "plain",
        "fingerprint": "f",
        "training_fingerprint": "t",
        "started": "2026-01-01T00:00:00+00:00",
    }
    return RunState(**(values | changes))


def make_folder(root: Path, run_id: str, **changes: Any) -> RunFolder:
    folder = RunFolder(root / "runs" / run_id)
    folder.path.mkdir(parents=True)
    folder.write_state(make_state(run_id=run_id, **({"status": "done"} | changes)))
    return folder


def hold(folder: RunFolder) -> subprocess.Popen[str]:
    """Another process that holds the run."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    return holder


def test_state_round_trip(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, "run-1")
    state = make_state(
        status="failed",
        nodes={"Trainer": NodeState(status="failed", seconds=1.5, detail="ä\nb")},
        failure=Failure(node="Trainer", message="no", fix="do", exit_code=4),
        from_nodes=["Trainer"],
        partial=True,
    )
    folder.write_state(state)
    assert folder.read_state() == state
    assert [p.name for p in folder.path.iterdir()] == ["run.json"]  # no half-written file is left


def test_spec_and_summary_round_trip(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, "run-1")
    spec = make_spec(write_project(tmp_path, backend="dp_sgd"))
    folder.write_spec(spec)
    assert folder.read_spec() == spec
    assert folder.read_summary() is None
    folder.write_summary(make_summary(dp_record()))
    assert folder.read_summary() == make_summary(dp_record())


def test_a_run_whose_process_is_gone_reads_as_interrupted(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, "run-1", status="running")
    holder = hold(folder)
    assert folder.read_state().status == "running" and folder.is_locked()
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert folder.read_state().status == "interrupted" and not folder.is_locked()


def test_a_finished_run_does_not_become_interrupted(tmp_path: Path) -> None:
    assert make_folder(tmp_path, "run-1", status="failed").read_state().status == "failed"


def test_the_lock_excludes_a_second_process_and_is_free_again_after_it(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, "run-1")
    holder = hold(folder)
    with pytest.raises(PipelineError, match="run-1 is being executed by another process"), folder.lock():
        pass
    holder.communicate("")
    with folder.lock():
        assert folder.is_locked()
    assert not folder.is_locked()


def test_runs_are_found_by_id_prefix_and_pipeline(tmp_path: Path) -> None:
    make_folder(tmp_path, "20260101-000000-aaaa", pipeline="things")
    make_folder(tmp_path, "20260102-000000-bbbb", pipeline="things")
    make_folder(tmp_path, "20260103-000000-cccc", pipeline="others")
    assert find_run(tmp_path, "20260101-000000-aaaa").run_id == "20260101-000000-aaaa"
    assert find_run(tmp_path, "20260102").run_id == "20260102-000000-bbbb"
    assert find_run(tmp_path, "things").run_id == "20260102-000000-bbbb"  # its newest
    with pytest.raises(BadInputError, match="fits 3 runs"):
        find_run(tmp_path, "2026")
    with pytest.raises(BadInputError, match="no run 'nothing'"):
        find_run(tmp_path, "nothing")
    with pytest.raises(BadInputError, match="no run"):
        find_run(tmp_path / "empty", "things")


def test_a_whole_id_wins_over_a_longer_one(tmp_path: Path) -> None:
    make_folder(tmp_path, "run-1")
    make_folder(tmp_path, "run-10")
    assert find_run(tmp_path, "run-1").run_id == "run-1"


def test_a_folder_that_never_got_a_state_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "runs" / "started-and-died").mkdir(parents=True)
    make_folder(tmp_path, "run-1")
    assert [f.run_id for f in run_folders(tmp_path)] == ["run-1"]


@pytest.mark.parametrize("content", ["", "{", '{"run_id": "x"}', '{"from": "a newer version"}'])
def test_a_broken_state_says_which_file_and_what_to_do(tmp_path: Path, content: str) -> None:
    folder = make_folder(tmp_path, "run-1")
    (folder.path / "run.json").write_text(content)
    with pytest.raises(BadInputError, match=r"run-1/run\.json") as caught:
        folder.read_state()
    assert str(folder.path) in caught.value.fix


def test_a_broken_folder_does_not_hide_the_runs_of_another_pipeline(tmp_path: Path) -> None:
    broken = make_folder(tmp_path, "20260101-000000-aaaa")
    make_folder(tmp_path, "20260102-000000-bbbb", pipeline="things")
    (broken.path / "run.json").write_text("{")
    assert find_run(tmp_path, "things").run_id == "20260102-000000-bbbb"


def test_an_unreadable_spec_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"spec\.json"):
        make_folder(tmp_path, "run-1").read_spec()


def test_prepare_makes_every_folder_and_leaves_nothing_in_them(tmp_path: Path) -> None:
    workspace = Workspace(write_project(tmp_path))
    workspace.prepare()
    for folder in (workspace.runs, workspace.pipeline_root, workspace.push_directory):
        assert folder.is_dir() and not list(folder.iterdir())


def test_prepare_refuses_a_workspace_that_cannot_be_made(tmp_path: Path) -> None:
    config = write_project(tmp_path)
    (tmp_path / "workspace").write_text("a file")
    with pytest.raises(BadInputError, match=r"cannot be written") as caught:
        Workspace(config).prepare()
    assert "workspace" in caught.value.fix


def test_prepare_notices_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("privacy_pipeline.files.atomic.tempfile.TemporaryFile", full)
    with pytest.raises(BadInputError, match="No space left on device"):
        Workspace(write_project(tmp_path)).prepare()


def test_prepare_refuses_a_push_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = write_project(tmp_path, push={"directory": str(tmp_path / "file" / "models")})
    with pytest.raises(BadInputError, match=r"file/models: cannot be written"):
        Workspace(config).prepare()


def test_the_name_of_a_run_sorts_by_time_and_tells_none(tmp_path: Path) -> None:
    workspace = Workspace(write_project(tmp_path))
    day = datetime.date.today().strftime("%Y%m%d")
    (workspace.runs / f"{day}-235959-aaaa").mkdir(parents=True)  # as version 0.1.0 named them
    names = [workspace.new_run().run_id for _ in range(12)]
    assert sorted(path.name for path in workspace.runs.iterdir())[1:] == names
    assert [name.rpartition("-")[0] for name in names] == [f"{day}-r{number:04d}" for number in range(1, 13)]


def test_new_runs_never_share_a_folder(tmp_path: Path) -> None:
    workspace = Workspace(write_project(tmp_path))
    names = {workspace.new_run().run_id for _ in range(20)}
    assert len(names) == 20


def test_where_things_lie(tmp_path: Path) -> None:
    workspace = Workspace(write_project(tmp_path))
    assert workspace.metadata_path == tmp_path / "workspace" / "metadata.db"
    elsewhere = Workspace(
        write_project(tmp_path / "b", metadata={"kind": "sqlite", "path": "/m.db"}, push={"directory": "/p"})
    )
    assert (elsewhere.metadata_path, elsewhere.push_directory) == (Path("/m.db"), Path("/p"))


@pytest.mark.parametrize(
    ("section", "given", "opened"),
    [
        ("push", {"directory": "open/models"}, "open"),
        ("push", {"directory": "open/models"}, "open/models"),
        ("metadata", {"kind": "sqlite", "path": "open/metadata.db"}, "open"),
    ],
)
def test_prepare_refuses_a_store_or_models_that_others_may_replace(
    section: str, given: dict[str, str], opened: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace(write_project(tmp_path, **{section: given}))
    Path("open/models").mkdir(parents=True)
    workspace.prepare()
    Path(opened).chmod(0o777)
    with pytest.raises(BadInputError, match="other users may change it") as caught:
        workspace.prepare()
    assert "chmod go-w" in caught.value.fix
    Path(opened).chmod(0o700)
    workspace.prepare()
