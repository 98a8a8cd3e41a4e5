"""Faults of the machine under a run: each ends in one clear line, and in a state that goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.mounts import Mounts, mounts
from tests.hosts.project import Ended, Project, end, processes_of, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
DAY_BACK = "-1d"


@pytest.fixture
def mounted(project: Project, can_mount: None) -> Iterator[Mounts]:
    for name in ("workspace", "ledger"):
        (project.root / name).mkdir(mode=0o700)
    with mounts(project.root) as made:
        yield made


def _ended(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate(timeout=1200)
    return Ended(process.returncode, out, err)


def _while(
    project: Project, *args: str, node: str, status: str = "running", prefix: list[str]
) -> subprocess.Popen[str]:
    """Starts a command and waits until a node of its run has a status."""
    process = project.start(*args, prefix=prefix)
    try:
        wait_for(f"{node} {status}", lambda: project.node(node) == status, process)
    except BaseException:
        end(process)
        raise
    return process


def _goes_on(project: Project, prefix: list[str], *, entries: dict[str, int]) -> None:
    """Resumes the run, which ends well; the ledger verifies and counts what is given."""
    resumed = project.cli("resume", project.run_id(), prefix=prefix)
    assert resumed.code == 0, resumed.text
    _counts(project, prefix, entries=entries)
    assert processes_of(project.root) == []


def _counts(project: Project, prefix: list[str], *, entries: dict[str, int]) -> None:
    verified = project.cli("budget", "verify", prefix=prefix)
    assert verified.code == 0, verified.text
    listed = project.cli("budget", "history", "--json", prefix=prefix)
    assert listed.code == 0, listed.text
    found: dict[str, int] = {}
    for entry in json.loads(listed.out):
        found[entry["state"]] = found.get(entry["state"], 0) + 1
    assert found == entries


def test_a_full_disk_under_the_ledger(project: Project, mounted: Mounts) -> None:
    mounted.small("ledger", "2m")
    registered = project.cli("budget", "register", "config.yaml", "--epsilon", "10", prefix=mounted.prefix)
    assert registered.code == 0, registered.text
    mounted.fill("ledger")
    for words in (("budget", "register", "config.yaml", "--epsilon", "11"), ("budget", "rotate-key")):
        refused = project.cli(*words, prefix=mounted.prefix)
        assert refused.code in (1, 2) and "ledger" in refused.error, refused.text
    refused = project.cli("run", "config.yaml", prefix=mounted.prefix)
    assert refused.code == 1 and "ledger" in refused.error, refused.text
    assert project.node("ExampleGen") == "waiting"
    mounted.empty("ledger")
    process = _while(project, "run", "config.yaml", node="Transform", prefix=mounted.prefix)
    mounted.fill("ledger")
    failed = _ended(process)
    assert failed.code == 1 and "ledger" in failed.error and "resume" in failed.text, failed.text
    assert project.node("Trainer") == "failed" and processes_of(project.root) == []
    mounted.empty("ledger")
    _goes_on(project, mounted.prefix, entries={"committed": 1})


def test_a_workspace_that_becomes_read_only(project: Project, mounted: Mounts) -> None:
    project.done("budget", "register", "config.yaml", "--epsilon", "10")
    mounted.read_only("workspace")
    refused = project.cli("run", "config.yaml", prefix=mounted.prefix)
    assert refused.code == 2 and "workspace" in refused.error and "Read-only file system" in refused.error
    mounted.writable("workspace")
    process = _while(project, "run", "config.yaml", node="Transform", prefix=mounted.prefix)
    mounted.read_only("workspace")
    failed = _ended(process)
    assert failed.code == 1 and "Read-only file system" in failed.error and "workspace" in failed.error, failed.text
    assert "resume" in failed.text and processes_of(project.root) == []
    _counts(project, mounted.prefix, entries={})
    mounted.writable("workspace")
    _goes_on(project, mounted.prefix, entries={"committed": 1})


def test_files_that_are_deleted_in_mid_run(project: Project) -> None:
    """What is gone is named before a charge, in a run, in `resume` and for a new run, which makes it again."""
    project.done("budget", "register", "config.yaml", "--epsilon", "10")
    kept = project.root / "kept"
    kept.mkdir()
    process = _while(project, "run", "config.yaml", node="StatisticsGen", prefix=[])
    rows, schema = project.root / "data/span-1/train/rows.csv", project.root / "schema.pbtxt"
    examples = project.root / "workspace/pipelines/things/ExampleGen/examples"
    (shard,) = examples.rglob("Split-eval/*.gz")
    for file in (rows, schema):
        shutil.move(file, kept / file.name)
    shard.unlink()
    failed = _ended(process)
    assert failed.code == 1 and "ExampleGen/examples" in failed.error, failed.text
    assert "resume" in failed.text and processes_of(project.root) == []
    _counts(project, [], entries={})
    gone = project.cli("resume", project.run_id())
    assert gone.code == 2 and str(schema.name) in gone.error, gone.text
    for file in (rows, schema):
        shutil.move(kept / file.name, file)
    refused = project.cli("resume", project.run_id())
    assert refused.code == 2 and "which ExampleGen made, is missing" in refused.error, refused.text
    again = project.cli("run", "config.yaml")
    assert again.code == 0, again.text
    _counts(project, [], entries={"committed": 1})
    assert [project.node(name) for name in ("ExampleGen", "Trainer")] == ["done", "done"]


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in listed]


def _trainer(process: subprocess.Popen[str]) -> int:
    """The process of the node that runs alone: a child of the worker, which is the command's child."""
    (worker,) = _children(process.pid)
    wait_for("the trainer's process", lambda: bool(_children(worker)), process)
    return _children(worker)[0]


def test_a_trainer_that_is_killed_for_memory(project: Project) -> None:
    """By the kernel's killer, which sends SIGKILL; and at its own limit of address space."""
    project.done("budget", "register", "config.yaml", "--epsilon", "10")
    process = _while(project, "run", "config.yaml", node="Trainer", prefix=[])
    os.kill(_trainer(process), signal.SIGKILL)
    failed = _ended(process)
    assert failed.code == 1 and "Trainer was killed by signal 9 (out of memory?)" in failed.error, failed.text
    assert "resume" in failed.text and processes_of(project.root) == []

    process = _while(project, "resume", project.run_id(), node="Trainer", prefix=[])
    subprocess.run(["prlimit", f"--pid={_trainer(process)}", "--as=100000000"], check=True)
    failed = _ended(process)
    assert failed.code == 1 and "Trainer" in failed.error and "memory" in failed.error, failed.text
    assert "resume" in failed.text and processes_of(project.root) == []
    budget = project.budget()
    assert budget["entries"]["reserved"] <= 1
    resumed = project.cli("resume", project.run_id())
    assert resumed.code == 0, resumed.text
    assert project.budget()["entries"]["committed"] == 1


@pytest.mark.skipif(not FAKETIME.is_file(), reason="libfaketime is not installed: apt-get install faketime")
def test_a_clock_that_is_set_back_a_day_while_a_run_is_in_progress_and_after_it(project: Project) -> None:
    clock = project.root / "clock"
    clock.write_text("+0\n")
    stated = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    stated |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    faked = Project(project.root, environment=stated)
    faked.done("budget", "register", "config.yaml", "--epsilon", "10")
    process = _while(faked, "run", "config.yaml", node="Transform", prefix=[])
    clock.write_text(f"{DAY_BACK}\n")
    ended = _ended(process)
    assert ended.code == 0, ended.text
    _counts(faked, [], entries={"committed": 1})
    spent = faked.budget()["spent_epsilon"]
    clock.write_text("-2d\n")
    again = faked.cli("run", "config.yaml", "--json")
    assert again.code == 0 and '"cached_from"' in again.out, again.text
    faked.done("budget", "rotate-key")
    faked.done("budget", "backup", "backup.db")
    assert faked.budget()["spent_epsilon"] == spent
    assert project.budget()["spent_epsilon"] == spent  # and with the clock as it is
