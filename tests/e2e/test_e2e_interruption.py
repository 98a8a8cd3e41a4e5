"""Kills, two runs at once, and a full disk: nothing is lost, nothing is pushed twice, and the ledger counts it all."""

from __future__ import annotations

import re
import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Background, Ended, Project

_BEFORE_TRAINER = ("ExampleGen", "StatisticsGen", "SchemaGen", "ExampleValidator", "Transform")
_DEADLINE = 900


def _workers(project: Project) -> list[int]:
    """Living processes of the project's runs but for the command line itself."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().decode(errors="replace")
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if "pipelines.execution.worker" in command and str(project.root) in command and state != "Z":
                found.append(int(folder.name))
    return found


def _wait(what: str, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + _DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what} has not happened after {_DEADLINE} s"
        time.sleep(0.02)


def _keys(project: Project, name: str = "*.*") -> list[Path]:
    """Files that a DP training keeps until it is committed."""
    return list((project.root / "workspace/pipelines").glob(f"*/.attempts/*/**/{name}"))


def _trainer_runs(project: Project) -> bool:
    states = list((project.root / "workspace/runs").glob("*/run.json"))
    return any('"Trainer":{"status":"running"' in re.sub(r"\s", "", state.read_text()) for state in states)


@dataclass(frozen=True)
class Killed:
    """A run that was killed in its Trainer, and then resumed."""

    project: Project
    listed: list[dict[str, Any]]
    state: dict[str, Any]
    executions: int
    entries: list[str]
    pushed: list[Path]
    orphans: list[int]
    resumed: Ended

    @property
    def run_id(self) -> str:
        return str(self.listed[0]["run_id"])


def _executions(project: Project) -> int:
    with sqlite3.connect(project.root / "workspace/metadata.db", timeout=30) as connection:
        query = "SELECT count(*) FROM Execution JOIN Type ON Type.id = type_id WHERE Type.name LIKE '%ExampleGen%'"
        return int(connection.execute(query).fetchone()[0])


def _kill_and_resume(project: Project, config: str, ready: Callable[[Project], bool]) -> Killed:
    process = project.start("run", f"configs/{config}.yaml")
    try:
        _wait("training", lambda: ready(project) or process.poll() is not None)
        assert process.poll() is None, (project.root / "output.txt").read_text()
        assert _workers(project)
    finally:
        process.kill()
        process.wait()
    time.sleep(1)
    orphans = _workers(project)
    listed = project.runs()
    run_id = str(listed[0]["run_id"])
    before = {
        "state": project.run_json(run_id),
        "executions": _executions(project),
        "entries": project.entries(),
        "pushed": project.pushed() + project.pushed("adult-dp"),
    }
    resumed = project.cli("resume", run_id)
    return Killed(project=project, listed=listed, orphans=orphans, resumed=resumed, **before)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Full:
    """A DP run that met a full file system at `folder`; `left` lists what was on it afterwards."""

    project: Project
    ended: Ended
    left: str


# Which node meets the full disk: the folder that is a small file system of its own, its size, and options of the run.
_SMALL = {
    "ExampleGen": ("small", "100k", ("metadata.kind=sqlite", "metadata.path=small/metadata.db")),
    "Trainer": ("workspace/pipelines/adult-dp/Trainer", "40k", ()),
    "Pusher": ("small", "40k", ("push.directory=small",)),
}


def _fill_the_disk(project: Project, folder: str, size: str, options: tuple[str, ...]) -> Full:
    """Mounts it where only the command and its listing see it; the ledger lies elsewhere."""
    (project.root / folder).mkdir(parents=True)
    project.done("budget", "register", "configs/dp.yaml", "--epsilon", "10")
    script = f'mount -t tmpfs -o size={size} none {folder} && "$@"; code=$?; find {folder} > left.txt; exit $code'
    overrides = [part for option in options for part in ("--set", option)]
    prefix = ["unshare", "-rm", "sh", "-c", script, "sh"]
    ended = project.cli("run", "configs/dp.yaml", *overrides, prefix=prefix, timeout=_DEADLINE)
    return Full(project=project, ended=ended, left=(project.root / "left.txt").read_text())


@pytest.fixture(scope="module")
def scenarios(
    new_project: Callable[[], Project],
    in_background: Callable[..., Background],
    can_mount: bool,
) -> Background:
    def killed_plain() -> Killed:
        return _kill_and_resume(new_project(), "plain", _trainer_runs)

    def killed_dp() -> Killed:
        project = new_project()
        project.edit("configs/dp.yaml", "epochs: 1", "epochs: 5")
        project.done("budget", "register", "configs/dp.yaml", "--epsilon", "10")
        return _kill_and_resume(project, "dp", lambda p: bool(_keys(p, "checkpoint.npz")))

    def full(node: str) -> Callable[[], Full]:
        return lambda: _fill_the_disk(new_project(), *_SMALL[node])

    small = {node: full(node) for node in _SMALL} if can_mount else {}
    return in_background({"plain": killed_plain, "dp": killed_dp, **small}, later=("plain", "ExampleGen", "Trainer"))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["dp", "plain"])
def test_a_killed_run_is_listed_as_interrupted_and_leaves_no_process(scenarios: Background, backend: str) -> None:
    killed: Killed = scenarios[backend].result()
    assert [run["status"] for run in killed.listed] == ["interrupted"]
    assert killed.orphans == []
    assert killed.pushed == []
    assert killed.state["nodes"]["Trainer"]["status"] == "running"
    assert {killed.state["nodes"][name]["status"] for name in _BEFORE_TRAINER} == {"done"}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["dp", "plain"])
def test_resume_finishes_a_killed_run_without_doing_its_nodes_again(scenarios: Background, backend: str) -> None:
    killed: Killed = scenarios[backend].result()
    assert killed.resumed.code == 0, killed.resumed.text
    (run,) = killed.project.runs()
    assert (run["run_id"], run["status"]) == (killed.run_id, "done")
    after = killed.project.run_json(killed.run_id)
    assert {name: after["nodes"][name] for name in _BEFORE_TRAINER} == {
        name: killed.state["nodes"][name] for name in _BEFORE_TRAINER
    }
    assert killed.executions == _executions(killed.project) == 1
    assert len(killed.project.pushed(run["pipeline"])) == 1
    assert len(killed.project.published()) == 1
    assert _workers(killed.project) == []


@pytest.mark.slow
def test_a_killed_dp_training_goes_on_under_its_charge(scenarios: Background) -> None:
    killed: Killed = scenarios["dp"].result()
    assert killed.entries == ["started"]
    assert killed.project.entries() == ["committed"]
    assert "charged again" not in killed.resumed.text
    budget = killed.project.budget()
    record = killed.project.done("show", killed.run_id, "--json").json["summary"]["record"]
    assert record["composition"]["entries_before"] == 0 and record["training_guarantee"] == "dp"
    assert budget["spent_epsilon"] == pytest.approx(record["composition"]["epsilon_after"])
    assert _keys(killed.project) == []


@pytest.mark.slow
def test_a_finished_run_cannot_be_resumed(scenarios: Background) -> None:
    killed: Killed = scenarios["dp"].result()
    pushed = killed.project.pushed("adult-dp")
    ended = killed.project.cli("resume", killed.run_id)
    assert ended.code == 2
    assert "is finished (done)" in ended.text
    assert killed.project.pushed("adult-dp") == pushed


def test_a_run_killed_while_tfx_starts_leaves_no_process(project: Project) -> None:
    process = project.start("run", "configs/plain.yaml")
    try:
        _wait("the worker", lambda: bool(_workers(project)))
        time.sleep(1)
    finally:
        process.kill()
        process.wait()
    _wait("the worker's end", lambda: not _workers(project))
    assert not project.pushed()  # it was stopped; it did not come to its own end
    assert [run["status"] for run in project.runs()] == ["interrupted"]


def test_an_interrupt_ends_the_run_and_its_processes(project: Project) -> None:
    process = project.start("run", "configs/plain.yaml")
    try:
        _wait("the worker", lambda: bool(_workers(project)))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=_DEADLINE) == 1
    finally:
        process.kill()
    assert _workers(project) == []
    assert not project.pushed()  # it was stopped; it did not come to its own end
    output = (project.root / "output.txt").read_text()
    assert "interrupted" in output
    assert "Traceback" not in output
    assert [run["status"] for run in project.runs()] == ["interrupted"]


@pytest.mark.slow
def test_two_runs_at_once_in_one_workspace_both_finish(project: Project) -> None:
    processes = [project.start("run", "configs/plain.yaml") for _ in range(2)]
    try:
        assert [p.wait(timeout=_DEADLINE) for p in processes] == [0, 0], (project.root / "output.txt").read_text()
    finally:
        for process in processes:
            process.kill()
    runs = project.runs()
    assert len({run["run_id"] for run in runs}) == 2
    assert [run["status"] for run in runs] == ["done", "done"]
    assert {row["run_id"] for row in project.published()} == {run["run_id"] for run in runs}
    # Each run says where it pushed to; none may have written over the other's model.
    said = [project.run_json(run["run_id"])["nodes"]["Pusher"]["detail"].removeprefix("to ") for run in runs]
    trained = [project.run_json(run["run_id"])["nodes"]["Trainer"]["status"] for run in runs]
    assert sorted(set(said)) == [str(path) for path in project.pushed()]
    assert len(project.pushed()) == trained.count("done")


@pytest.mark.slow
@pytest.mark.parametrize("node", ["Pusher", "ExampleGen", "Trainer"])
def test_a_full_disk_is_one_clear_line(scenarios: Background, can_mount: bool, node: str) -> None:
    if not can_mount:
        pytest.skip("no user namespaces with mounts here")
    full: Full = scenarios[node].result()
    assert full.ended.code == 1, full.ended.text
    assert "Traceback" not in full.ended.text
    assert f"✗ {node}" in full.ended.text
    assert "✓ Pusher" not in full.ended.text
    assert full.project.pushed("adult-dp") == []
    spent = [] if node == "ExampleGen" else ["committed"] if node == "Pusher" else ["started", "committed"]
    assert set(full.project.entries()) <= set(spent)
    assert full.project.budget()["cap_epsilon"] == 10
    assert _workers(full.project) == []
    (run,) = full.project.runs()
    assert run["status"] == "failed"
    # One line says it, and the next what to do.
    (line,) = [line for line in full.ended.err.splitlines() if line.startswith("error:")]
    assert line.endswith(f"{node}: no space left on the disk")
    assert "free space, then resume" in full.ended.text


@pytest.mark.slow
def test_a_model_that_was_not_pushed_whole_is_not_left_where_models_are_served_from(
    scenarios: Background, can_mount: bool
) -> None:
    if not can_mount:
        pytest.skip("no user namespaces with mounts here")
    full: Full = scenarios["Pusher"].result()
    assert [name for name in full.left.splitlines() if Path(name).name.isdigit()] == []


def test_a_disk_that_is_full_from_the_start_is_told_before_tfx_starts(
    project: Project, can_mount: bool, on_tmpfs: Callable[[str], list[str]]
) -> None:
    if not can_mount:
        pytest.skip("no user namespaces with mounts here")
    project.done("budget", "register", "configs/dp.yaml", "--epsilon", "10")
    (project.root / "workspace").mkdir(exist_ok=True)
    ended = project.cli("run", "configs/dp.yaml", prefix=on_tmpfs("size=4k"))
    assert ended.code in (1, 2), ended.text
    assert "No space left on device" in ended.text or "0.0 MB are free on its disk" in ended.text
    assert "starting TFX" not in ended.text
    assert "Traceback" not in ended.text
    assert project.entries() == []
