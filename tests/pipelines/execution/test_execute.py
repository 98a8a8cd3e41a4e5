"""The process around the worker: a stand-in worker instead of TFX, and everything that may happen to it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.errors import PipelineError
from privacy_pipeline.pipelines.execution import events, execute
from privacy_pipeline.pipelines.nodes import NODES
from privacy_pipeline.pipelines.workspace.run_state import NodeState, RunState
from privacy_pipeline.pipelines.workspace.workspace import RunFolder
from privacy_pipeline.processes.programs import command_of
from tests.pipelines.projects import make_spec, write_project
from tests.reports.records import make_summary, plain_record

REAL_POPEN: Any = subprocess.Popen  # the `worker` fixture replaces it
PREAMBLE = """
import json, os, signal, subprocess, sys, time
RUN_DIR, FD = sys.argv[1], int(sys.argv[2])
def emit(event, **values):
    os.write(FD, json.dumps({"event": event, **values}).encode())
def ended(node, cached=False):
    emit("started", node=node)
    emit("ended", node=node, cached=cached, seconds=1.23456, detail="did " + node)
def failed(node, message, exit_code=1):
    emit("failed", node=node, message=message, fix="mend it", exit_code=exit_code)
def sleeper():
    child = subprocess.Popen(["sleep", "300"])
    with open(os.path.join(RUN_DIR, "sleeper"), "w") as file:
        file.write(str(child.pid))
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "runs" / "run-1")
    made.path.mkdir(parents=True)
    made.write_spec(make_spec(write_project(tmp_path)))
    return made


@pytest.fixture
def state() -> RunState:
    return RunState(
        run_id="run-1",
        pipeline="things",
        config_path="c.yaml",
        backend="plain",
        fingerprint="f",
        training_fingerprint="t",
        started="2026-01-01T00:00:00+00:00",
    )


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Lets a script stand in for the worker module; the rest of its command line stays as it is."""

    def use(script: str) -> None:
        path = tmp_path / "worker.py"
        path.write_text(PREAMBLE + script)

        def start(command: list[str], **options: Any) -> Any:
            assert command[:3] == command_of("privacy_pipeline.pipelines.execution.worker")
            return REAL_POPEN([sys.executable, str(path), *command[3:]], **options)

        monkeypatch.setattr(subprocess, "Popen", start)

    return use


def run(folder: RunFolder, state: RunState) -> tuple[RunState, list[events.Event]]:
    seen: list[events.Event] = []
    result = execute.execute(folder=folder, state=state, on_event=lambda event, _: seen.append(event))
    assert folder.read_state() == result
    return result, seen


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends_soon(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_alive(pid)


def test_success(folder: RunFolder, state: RunState, worker: Any) -> None:
    worker("emit('loaded', seconds=1.0)\nended('ExampleGen')\nended('Trainer', cached=True)\nprint('to the log')")
    result, seen = run(folder, state)
    assert result.status == "done" and result.failure is None and result.ended is not None
    assert result.nodes["ExampleGen"] == NodeState(status="done", seconds=1.235, detail="did ExampleGen")
    assert result.nodes["Trainer"].status == "cached"
    assert {result.nodes[n].status for n in NODES if n not in ("ExampleGen", "Trainer")} == {"skipped"}
    assert [event.event for event in seen] == ["loaded", "started", "ended", "started", "ended"]
    assert folder.log.read_text() == "to the log\n"
    assert not folder.is_locked()


def test_the_state_on_disk_follows_every_event(folder: RunFolder, state: RunState, worker: Any) -> None:
    worker("emit('started', node='Trainer')\nemit('ended', node='Trainer', cached=False, seconds=1, detail='')")
    on_disk: list[str] = []
    execute.execute(
        folder=folder, state=state, on_event=lambda *_: on_disk.append(folder.read_state().nodes["Trainer"].status)
    )
    assert on_disk == ["running", "done"]


def test_a_model_that_was_not_blessed(folder: RunFolder, state: RunState, worker: Any) -> None:
    worker("ended('PrivacyGate')")
    folder.write_summary(make_summary(plain_record(), blessed=False, reasons=["too weak"]))
    assert run(folder, state)[0].status == "not_blessed"


def test_the_first_node_of_the_pipeline_explains_a_failure(folder: RunFolder, state: RunState, worker: Any) -> None:
    worker("failed('Evaluator', 'behind')\nfailed('ExampleValidator', 'the cause', 2)\nsys.exit(1)")
    result, _ = run(folder, state)
    assert result.status == "failed" and result.failure is not None
    assert (result.failure.node, result.failure.message, result.failure.fix) == (
        "ExampleValidator",
        "the cause",
        "mend it",
    )
    assert result.failure.exit_code == 2
    assert result.nodes["Evaluator"].status == "failed"


def test_a_failure_of_the_worker_itself_explains_all_others(folder: RunFolder, state: RunState, worker: Any) -> None:
    worker("failed('ExampleGen', 'a node')\nfailed('', 'the worker')\nsys.exit(1)")
    failure = run(folder, state)[0].failure
    assert failure is not None and failure.message == "the worker" and failure.node is None


@pytest.mark.parametrize(
    ("ending", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by signal 11"),
        ("sys.exit(7)", "ended with status 7"),
    ],
)
def test_a_silent_death_is_a_failure(ending: str, says: str, folder: RunFolder, state: RunState, worker: Any) -> None:
    worker(f"ended('ExampleGen')\nemit('started', node='Trainer')\n{ending}")
    result, _ = run(folder, state)
    assert result.status == "failed" and result.failure is not None
    assert says in result.failure.message and result.failure.exit_code == 1
    assert result.nodes["ExampleGen"].status == "done"


def test_no_node_of_a_dead_worker_still_runs(folder: RunFolder, state: RunState, worker: Any) -> None:
    worker("emit('started', node='Trainer')\nos.kill(os.getpid(), signal.SIGKILL)")
    assert run(folder, state)[0].nodes["Trainer"].status != "running"


def test_a_worker_that_fails_before_its_first_line(folder: RunFolder, state: RunState, worker: Any) -> None:
    worker("raise SystemError('early')")
    result, seen = run(folder, state)
    assert result.status == "failed" and result.failure is not None and not seen
    assert "SystemError: early" in folder.log.read_text()


@pytest.mark.parametrize("error", [RuntimeError("display broke"), KeyboardInterrupt()], ids=repr)
def test_an_exception_while_events_are_shown_kills_the_whole_group(
    error: BaseException, folder: RunFolder, state: RunState, worker: Any
) -> None:
    worker("sleeper()\nemit('started', node=str(os.getpid()))\ntime.sleep(300)")
    pids: list[int] = []

    def on_event(event: events.Event, _: RunState) -> None:
        assert isinstance(event, events.NodeStarted)
        pids.extend([int(event.node), int((folder.path / "sleeper").read_text())])
        assert all(is_alive(pid) for pid in pids)
        raise error

    with pytest.raises(type(error)):
        execute.execute(folder=folder, state=state, on_event=on_event)
    assert len(pids) == 2 and all(ends_soon(pid) for pid in pids)
    assert folder.read_state().status == "interrupted"


def test_what_a_worker_leaves_behind_does_not_outlive_it(folder: RunFolder, state: RunState, worker: Any) -> None:
    worker("sleeper()")
    run(folder, state)
    assert ends_soon(int((folder.path / "sleeper").read_text()))


def test_a_node_is_started_anew_unless_it_is_done(folder: RunFolder, state: RunState, worker: Any) -> None:
    worker("emit('loaded', seconds=1.0)")
    done = NodeState(status="done", seconds=3.0, detail="kept")
    state.nodes = {"ExampleGen": done, "Transform": NodeState(status="failed", detail="old"), "SchemaGen": NodeState()}
    state.nodes["StatisticsGen"] = done.model_copy(update={"status": "cached"})
    first: list[dict[str, str]] = []
    execute.execute(
        folder=folder, state=state, on_event=lambda _, now: first.append({k: v.status for k, v in now.nodes.items()})
    )
    assert set(first[0]) == set(NODES)
    assert (first[0]["ExampleGen"], first[0]["StatisticsGen"]) == ("done", "cached")
    assert (first[0]["Transform"], first[0]["SchemaGen"]) == ("waiting", "waiting")
    assert folder.read_state().nodes["ExampleGen"] == done


def test_a_later_success_forgets_the_earlier_failure(folder: RunFolder, state: RunState, worker: Any) -> None:
    worker("failed('Trainer', 'no')\nsys.exit(1)")
    failed, _ = run(folder, state)
    worker("ended('Trainer')")
    again, _ = run(folder, failed)
    assert again.status == "done" and again.failure is None


@pytest.mark.parametrize("trust", [None, "reviewed"])
def test_the_working_folder_is_on_no_path_of_the_worker_whoever_reviewed_the_model(
    folder: RunFolder, state: RunState, worker: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trust: Any
) -> None:
    spec = folder.read_spec()
    model = spec.config.model.model_copy(update={"use": "own", "trust": trust})
    folder.write_spec(spec.model_copy(update={"config": spec.config.model_copy(update={"model": model})}))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    worker("print(os.environ['PYTHONPATH'], sys.stdin.read())")
    assert run(folder, state)[0].status == "done"
    assert folder.log.read_text() == "elsewhere \n"  # as the user set it; and its standard input is empty


def test_a_run_that_another_process_executes_is_left_alone(folder: RunFolder, state: RunState, worker: Any) -> None:
    worker("print('ran')")
    folder.write_state(state)
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('held', flush=True); input()"
    command = [sys.executable, "-c", code, str(folder.path / "lock")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    other = REAL_POPEN(command, **pipes)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(PipelineError, match="executed by another process"):
        execute.execute(folder=folder, state=state, on_event=lambda *_: None)
    other.communicate("\n")
    assert not folder.log.exists()
