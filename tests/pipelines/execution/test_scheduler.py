"""The scheduler of forked nodes, with real node protos and a stand-in for what a node does."""

from __future__ import annotations

import errno
import faulthandler
import multiprocessing
import os
import signal
import socket
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tfx.proto.orchestration import pipeline_pb2
from tfx.types import standard_artifacts

from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.pipelines.execution import events, scheduler

pytestmark = pytest.mark.timeout(30)  # what waits for a process that is not there waits for ever

DIAMOND = {"A": [], "B": ["A"], "C": ["A"], "D": ["B", "C"]}


def make_pipeline(upstream: dict[str, list[str]], *, skipped: tuple[str, ...] = ()) -> Any:
    pipeline = pipeline_pb2.Pipeline()
    for name, above in upstream.items():
        node = pipeline.nodes.add().pipeline_node
        node.node_info.id = name
        node.upstream_nodes.extend(above)
        if name in skipped:
            node.execution_options.skip.SetInParent()
        else:
            node.execution_options.run.SetInParent()
    return pipeline


class Run:
    """One run of the scheduler: what nodes did (each in a process of its own) and what was told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._told = folder / "told"
        self._done = folder / "done"
        self._told.touch()
        self._done.touch()
        self._monkeypatch = monkeypatch

    def emit(self, event: events.Event) -> None:
        _append(self._told, event.model_dump_json())

    def __call__(
        self,
        upstream: dict[str, list[str]],
        nodes: dict[str, Callable[[], None]] | None = None,
        *,
        done: frozenset[str] = frozenset(),
        workers: int = 2,
        skipped: tuple[str, ...] = (),
    ) -> bool:
        def launch(name: str, node: Any, pipeline: Any) -> tuple[None, bool]:
            _append(self._done, f"{name} began")
            (nodes or {}).get(name, lambda: None)()
            _append(self._done, f"{name} ended")
            return None, False

        self._monkeypatch.setattr(scheduler, "_launch", launch)
        pipeline = make_pipeline(upstream, skipped=skipped)
        return scheduler.run_nodes(pipeline=pipeline, done=done, workers=workers, emit=self.emit)

    @property
    def did(self) -> list[str]:
        return self._done.read_text().splitlines()

    @property
    def ran(self) -> set[str]:
        return {line.split()[0] for line in self.did}

    @property
    def told(self) -> list[events.Event]:
        return [events.parse(line) for line in self._told.read_bytes().splitlines()]

    @property
    def failures(self) -> dict[str, events.NodeFailed]:
        return {event.node: event for event in self.told if isinstance(event, events.NodeFailed)}


def _append(path: Path, line: str) -> None:
    with open(path, "a") as file:  # one small write with O_APPEND: lines of several processes do not mix
        file.write(line + "\n")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(tmp_path, monkeypatch)


def raising(error: BaseException) -> Callable[[], None]:
    def do() -> None:
        raise error

    return do


def test_a_node_begins_only_after_all_that_it_depends_on(run: Run) -> None:
    slow = {name: (lambda: time.sleep(0.05)) for name in DIAMOND}
    assert run(dict(reversed(DIAMOND.items())), slow, workers=4)  # listed against the order on purpose
    at = {line: number for number, line in enumerate(run.did)}
    assert run.ran == set(DIAMOND)
    for name, above in DIAMOND.items():
        assert all(at[f"{upper} ended"] < at[f"{name} began"] for upper in above)


def test_every_start_and_end_is_told_once(run: Run) -> None:
    assert run(DIAMOND)
    started = [e.node for e in run.told if isinstance(e, events.NodeStarted)]
    ended = [e.node for e in run.told if isinstance(e, events.NodeEnded)]
    assert sorted(started) == sorted(ended) == list(DIAMOND)


def meeting(here: Path, there: Path) -> Callable[[], None]:
    def meet() -> None:
        here.touch()
        deadline = time.monotonic() + 20
        while not there.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{there.name} never began")
            time.sleep(0.01)

    return meet


def test_independent_nodes_overlap(run: Run, tmp_path: Path) -> None:
    b, c = tmp_path / "b", tmp_path / "c"
    assert run(DIAMOND, {"B": meeting(b, c), "C": meeting(c, b)})  # each ends only if the other has begun


def test_no_more_nodes_at_a_time_than_workers(run: Run) -> None:
    slow = {name: (lambda: time.sleep(0.05)) for name in DIAMOND}
    assert run(DIAMOND, slow, workers=1)
    assert [line.split()[1] for line in run.did] == ["began", "ended"] * 4


def test_after_a_failure_independent_nodes_still_run_and_dependents_do_not(run: Run) -> None:
    upstream = {"A": [], "Bad": ["A"], "Behind": ["Bad"], "FarBehind": ["Behind", "A"], "Beside": ["A"], "Last": []}
    upstream["Last"] = ["Beside"]
    assert not run(upstream, {"Bad": raising(ValueError("no"))}, workers=1)
    assert run.ran == {"A", "Bad", "Beside", "Last"}
    assert set(run.failures) == {"Bad"}


def test_the_last_node_that_runs_may_fail_with_others_behind_it(run: Run) -> None:
    """As a Trainer that fails alone: nothing runs any more, and nothing may be waited for."""
    assert not run({"A": [], "Trainer": ["A"], "Pusher": ["Trainer"]}, {"Trainer": raising(ValueError("no"))})
    assert run.ran == {"A", "Trainer"} and set(run.failures) == {"Trainer"}


def test_two_failures_are_both_told(run: Run) -> None:
    bad = {"B": raising(ValueError("first")), "C": raising(BadInputError("second", fix="mend"))}
    assert not run(DIAMOND, bad)
    assert set(run.failures) == {"B", "C"}


def test_nodes_that_are_done_are_not_run_again(run: Run) -> None:
    assert run(DIAMOND, done=frozenset({"A", "B"}))
    assert run.ran == {"C", "D"}


def test_nodes_outside_a_partial_run_are_not_run_but_count_as_there(run: Run) -> None:
    assert run(DIAMOND, skipped=("A", "B"))
    assert run.ran == {"C", "D"}


@pytest.mark.parametrize(
    ("ending", "says"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "B was killed by signal 9 (out of memory?)"),
        (lambda: [faulthandler.disable(), os.abort()], "B was killed by signal 6 (out of memory?)"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "B was killed by signal 15"),
        (lambda: os._exit(7), "B was ended with status 7"),
    ],
    ids=["SIGKILL", "SIGABRT", "SIGTERM", "exit"],
)
def test_a_node_that_dies_without_a_word_is_told(run: Run, ending: Callable[[], None], says: str) -> None:
    assert not run(DIAMOND, {"B": ending})
    assert run.failures["B"].message == says
    assert run.ran == {"A", "B", "C"}


def chained(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        chained(RuntimeError("Beam says: bundle failed"), OSError(errno.ENOSPC, "No space left on device")),
        RuntimeError("ResourceExhausted: x/y; No space left on device"),
    ],
    ids=str,
)
def test_a_full_disk_is_named(run: Run, error: BaseException) -> None:
    assert not run({"A": []}, {"A": raising(error)})
    failure = run.failures["A"]
    assert failure.message == "A: no space left on the disk" and "free space" in failure.fix


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        chained(RuntimeError("Beam says: bundle failed"), OSError(errno.ENOMEM, "Cannot allocate memory")),
        chained(RuntimeError("TFX: executor failed"), MemoryError()),
        RuntimeError("std::bad_alloc"),
    ],
    ids=repr,
)
def test_a_want_of_memory_is_named(run: Run, error: BaseException) -> None:
    assert not run({"A": []}, {"A": raising(error)})
    failure = run.failures["A"]
    assert failure.message == "A: no memory left" and "resume" in failure.fix


def test_another_system_error_is_no_full_disk(run: Run) -> None:
    assert not run({"A": []}, {"A": raising(FileNotFoundError(errno.ENOENT, "No such file", "/x"))})
    assert "FileNotFoundError" in run.failures["A"].message and "/x" in run.failures["A"].message


def test_our_own_errors_keep_message_fix_and_exit_code_through_wrapping() -> None:
    ours = BudgetRefusedError("too much", fix="ask for less")
    for error in (ours, chained(RuntimeError("TFX: executor failed\nlong"), ours)):
        failure = scheduler.failure("Trainer", error)
        assert (failure.message, failure.fix, failure.exit_code) == ("too much", "ask for less", 4)


def test_other_errors_are_one_short_line() -> None:
    failure = scheduler.failure("Transform", ValueError("first line\nsecond " + "x" * 1000))
    assert failure.message == "Transform: ValueError: first line"
    assert len(scheduler.failure("Transform", ValueError("x" * 1000)).message) == 500
    assert scheduler.failure("Transform", ValueError()).message == "Transform: ValueError: "


def test_a_failure_of_any_length_reaches_the_reader() -> None:
    """A wide table that lost its schema has thousands of anomalies, each a line of the message."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    error = BadInputError("the data does not keep the schema:" + "\n  a column: is gone" * 50_000, fix="mend it")
    scheduler.fd_emitter(theirs.fileno())(scheduler.failure("ExampleValidator", error))
    found = events.parse(ours.recv(1 << 20))
    assert isinstance(found, events.NodeFailed)
    assert found.node == "ExampleValidator" and found.message.startswith("the data does not keep the schema")
    assert (found.fix, found.exit_code) == ("mend it", 2)


def test_nodes_do_not_outlive_a_killed_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid_file = tmp_path / "pid"

    def launch(name: str, node: Any, pipeline: Any) -> tuple[None, bool]:
        pid_file.with_suffix(".part").write_text(str(os.getpid()))
        pid_file.with_suffix(".part").rename(pid_file)
        time.sleep(300)
        return None, False

    monkeypatch.setattr(scheduler, "_launch", launch)
    arguments = {"pipeline": make_pipeline({"A": []}), "done": frozenset(), "workers": 1, "emit": lambda event: None}
    parent = multiprocessing.get_context("fork").Process(target=scheduler.run_nodes, kwargs=arguments)
    parent.start()
    wait_until(pid_file.exists)
    assert parent.pid is not None
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    node = int(pid_file.read_text())
    wait_until(lambda: not _is_alive(node))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_execution_that_goes_on_begins_in_empty_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TFX gives a node that was killed the folders that it had; the curves of a training stay."""
    outputs = {}
    for name, kind in (("examples", standard_artifacts.Examples), ("model_run", standard_artifacts.ModelRun)):
        outputs[name] = [kind()]
        outputs[name][0].uri = str(tmp_path / name)
        (tmp_path / name / "Split-train").mkdir(parents=True)
        (tmp_path / name / "Split-train/left").touch()
    (tmp_path / "work/rows").mkdir(parents=True)
    info = types.SimpleNamespace(output_dict=outputs, tmp_dir=str(tmp_path / "work"))
    monkeypatch.setattr(scheduler.launcher.Launcher, "_run_executor", lambda _, given: given)
    made = object.__new__(scheduler._Launcher)
    assert made._run_executor(info) is info
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"work", "model_run", "model_run/Split-train", "model_run/Split-train/left"}
    assert made._run_executor(info) is info  # a node that begins has no folders yet
