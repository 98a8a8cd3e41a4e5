"""A project that was copied or moved works, caches included; a baseline that is gone stops no run."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import Project

if TYPE_CHECKING:
    from tests.e2e.conftest import Shared

pytestmark = pytest.mark.slow
_DATA_NODES = ("ExampleGen", "StatisticsGen", "SchemaGen", "ExampleValidator", "Transform")


@pytest.fixture
def moved(shared: Shared, tmp_path: Path) -> Project:
    """The finished project in another folder, and in a copy's own right: the first one is not asked any more."""
    root = tmp_path / "another place"
    shutil.copytree(shared.project.root, root)
    return Project(root)


def uris(project: Project) -> list[str]:
    with sqlite3.connect(project.root / "workspace/metadata.db") as connection:
        return [uri for (uri,) in connection.execute("SELECT uri FROM Artifact WHERE uri != ''")]


def test_a_copy_keeps_caches_budget_and_baseline(shared: Shared, moved: Project) -> None:
    entries, before = moved.entries(), uris(shared.project)
    shown = moved.done("show", "adult-plain").text
    assert str(moved.root) in shown and str(shared.project.root) not in shown
    assert "nothing changed since run" in moved.done("run", "configs/dp.yaml").text
    assert moved.entries() == entries
    ended = moved.done("run", "configs/plain.yaml", "--set", "training.epochs=2", "--json")
    statuses = moved.statuses(ended.json["run"]["run_id"])
    assert {statuses[name] for name in _DATA_NODES} == {"cached"} and statuses["Trainer"] == "done"
    assert {uri for uri in uris(moved) if not uri.startswith(f"{moved.root}/workspace/")} == set()
    assert uris(shared.project) == before


def test_a_baseline_that_is_gone_is_passed_over_with_a_line_and_one_charge(moved: Project) -> None:
    for model in (moved.root / "workspace/pipelines").glob("*/Trainer/model/*"):
        shutil.rmtree(model)
    entries = moved.entries()
    ended = moved.done("run", "configs/dp.yaml", "--set", "training.dp_sgd.target_epsilon=2.0")
    assert "passed over a blessed model whose files are gone" in ended.text and "there is no baseline" in ended.text
    assert len(moved.entries()) == len(entries) + 1 and moved.entries()[-1] == "committed"


def test_a_cell_that_changed_in_place_is_trained_on(moved: Project) -> None:
    """As many bytes and the same time of change: TFX alone would serve the old examples."""
    before = moved.train.stat()
    moved.set_cell(moved.train, 5, "age", "41")
    os.utime(moved.train, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert moved.train.stat().st_size == before.st_size
    ended = moved.done("run", "configs/plain.yaml", "--json")
    statuses = moved.statuses(ended.json["run"]["run_id"])
    assert statuses["ExampleGen"] == "done" and statuses["Trainer"] == "done"
