"""A schema that leaves ranges out: they are released once, charged, counted in the guarantee, and then cached."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Project

CONFIG = "configs/dp.yaml"
UNKNOWN = "adult_unknown_ranges.pbtxt"


def without_ranges(project: Project) -> None:
    """Swaps the schema, and asks for the release."""
    source = Path(__file__).parents[2] / "configs/schemas" / UNKNOWN
    shutil.copy(source, project.root / "configs/schemas" / UNKNOWN)
    project.edit(CONFIG, "adult.pbtxt", UNKNOWN)
    project.edit(CONFIG, "model:\n", "preprocessing:\n  dp: {epsilon: 1.0, delta: 1.0e-6}\nmodel:\n")


def summary(project: Project, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = project.done("show", run_id, "--json").json
    return found


@pytest.mark.slow
def test_a_budget_that_does_not_hold_both_is_refused_with_both_costs(project: Project) -> None:
    without_ranges(project)
    project.done("budget", "register", CONFIG, "--epsilon", "3.2")  # enough for either
    ended = project.cli("run", CONFIG)
    assert ended.code == 4
    both = r"this run costs epsilon \d\.\d+, after its DP statistics at 0\.\d+, which would raise what counts against"
    assert re.search(both, ended.text)
    assert project.runs() == [] and project.entries() == []


def test_the_schema_alone_is_refused_and_the_block_is_named(project: Project) -> None:
    without_ranges(project)
    project.edit(CONFIG, "preprocessing:\n  dp: {epsilon: 1.0, delta: 1.0e-6}\n", "")
    ended = project.cli("check", CONFIG)
    assert ended.code == 2
    assert "a numeric feature needs a public range" in ended.text and "preprocessing: {dp:" in ended.text


@pytest.mark.slow
def test_released_once_and_counted_in_every_model(project: Project) -> None:
    without_ranges(project)
    project.done("budget", "register", CONFIG, "--epsilon", "10")
    first = project.done("run", CONFIG, "--json").json["run"]["run_id"]
    assert project.statuses(first)["DpStatistics"] == "done"
    assert project.entries() == ["committed", "committed"]
    record = summary(project, first)["summary"]["record"]
    released, spent = record["preprocessing"], record["composition"]
    assert (released["ledger_entry"], spent["ledger_entry"]) == (1, 2)
    # Nothing else was charged, so that the model's guarantee is what is spent.
    assert record["guarantee"]["epsilon"] == pytest.approx(spent["epsilon_after"], rel=1e-9)
    assert record["guarantee"]["epsilon"] == pytest.approx(project.budget()["spent_epsilon"], rel=1e-9)

    # Another model on the same statistics: they come from the cache, and spend nothing.
    second = project.done("run", CONFIG, "--set", "model.hidden_units=[4]", "--json").json["run"]["run_id"]
    statuses = project.statuses(second)
    assert (statuses["DpStatistics"], statuses["Trainer"]) == ("cached", "done")
    assert project.entries() == ["committed"] * 3
    with sqlite3.connect(project.root / "ledger/ledger.db") as connection:
        (served,) = connection.execute("SELECT body FROM journal WHERE kind = 'zero'").fetchall()
    told = json.loads(served[0])
    assert (told["run_id"], told["node"], told["paid_by"]) == (second, "DpStatistics", 1)
    assert summary(project, second)["summary"]["record"]["preprocessing"]["ledger_entry"] == 1
