"""What is looked for after a kill is found where it is: each fault is planted in a small project."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from privacy_pipeline.pipelines.registration.register import register_dataset
from tests.e2e.kills import invariants, victims
from tests.e2e.kills.commands import Ended, Place
from tests.e2e.kills.disk import Watch
from tests.encrypted.processes import marked
from tests.pipelines.projects import write_project


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("project")
    register_dataset(config=write_project(root), epsilon=10.0, delta=1e-5)
    return Place(root, root / "memory")


def problems(place: Place) -> list[str]:
    before = invariants.books(place)
    return [
        *invariants.not_counted(place, before),
        *invariants.not_whole(place),
        *invariants.left_behind(place),
    ]


PLANTED = {
    "workspace/runs/r/summary.json": b"",
    "workspace/runs/r/report/report.html": b"<html><body>",
    "workspace/pushed/things/1700000000/saved_model.pb": b"half",
    "workspace/pipelines/things/Trainer/model/7/Format-Serving/saved_model.pb": b"nobody paid",
    "workspace/pipelines/things/Trainer/.system/executor_execution/7/.temp/rows.npy": b"rows",
    "workspace/.reading/tmp12345678/files/train/00000-rows.csv": b"rows",
    "ledger/ledger_key.pem.0123456789abcdef": b"-----BEGIN PRIVATE KEY-----",
    "ledger/.ledger_units.key.4711": b"secret",
    "ledger/.ledger_units.key.abcdefgh.part": b"secret",
    "workspace/pipelines/things/.attempts/a/engine/key.json": b"{}",
    "tmp/rows.csv": b"rows",
    "memory/privacy-pipeline-0/server0-abcdefgh/store/shares": b"shares",
}


def test_a_state_that_is_right_has_no_problem(registered: Place) -> None:
    assert problems(registered) == []


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(registered: Place, name: str) -> None:
    path = registered.root / name
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PLANTED[name])
    try:
        assert len(problems(registered)) >= 1
    finally:
        path.unlink()
        for folder in made:
            folder.rmdir()


def test_less_than_before_is_found(registered: Place) -> None:
    before = invariants.Books(spent={"things train": 1.0}, counted={1: "Trainer"})
    assert len(list(invariants.not_counted(registered, before))) == 2


@pytest.mark.parametrize(
    ("code", "err", "found"),
    [
        (0, "", 0),
        (-9, "", 0),
        (2, "error: it is not so\n  fix: do that\n", 0),
        (1, "Traceback (most recent call last):\n", 2),
        (1, "", 1),
    ],
)
def test_how_a_command_ends(code: int, err: str, found: int) -> None:
    ended = Ended(("run",), code, "", err, None, "a command" if code == -9 else "", frozenset(), "", {})
    assert len(list(invariants.not_told(ended))) == found


def test_an_orphan_is_found_and_a_tree_is_killed(tmp_path: Path) -> None:
    mark, environment = marked()
    script = "import subprocess, time; subprocess.Popen(['sleep', '300']); print('up', flush=True); time.sleep(300)"
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    try:
        assert victims.kill("command", mark=mark, root=process.pid, chance=random.Random(1))
        process.wait()
        assert list(victims.orphans(mark, {}, seconds=0.2).values()) == ["sleep 300 "]
    finally:
        victims.kill("all", mark=mark, root=process.pid, chance=random.Random(1))
        process.stdout.close()
    assert victims.orphans(mark, {}) == {}


@pytest.mark.parametrize(
    ("act", "kinds"),
    [
        (lambda root: (root / "a.json").write_text("x"), {"create a.json", "modify a.json", "close a.json"}),
        (lambda root: os.makedirs(root / "12/b"), {"create #", "create #/b"}),
        (lambda root: (root / "there").rename(root / "here"), {"rename here"}),
        (lambda root: (root / "there").unlink(), {"delete there"}),
    ],
    ids=["write", "folders", "rename", "delete"],
)
def test_events_on_disk_are_seen(tmp_path: Path, act: Callable[[Path], object], kinds: set[str]) -> None:
    (tmp_path / "there").touch()
    watch = Watch(tmp_path)
    try:
        act(tmp_path)
        assert set(watch.kinds(until=time.monotonic() + 0.5)) == kinds
    finally:
        watch.close()
