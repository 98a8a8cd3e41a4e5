"""A project of an earlier release: its ledger, runs and reports, under today's commands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from privacy_pipeline.accounting.renyi import ORDERS
from privacy_pipeline.cli.main import app
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import State
from tests.migrations.test_old_ledgers import require_no_less, statuses

LEDGER = "sqlite:///ledger/ledger.db"
PIPELINES = ("things-plain", "things-private", "things-federated", "things-encrypted", "things-killed")


def told(*words: str, code: int = 0) -> str:
    """What a command writes."""
    ended = CliRunner().invoke(app, list(words), env={"COLUMNS": "400", "NO_COLOR": "1"})
    assert ended.exit_code == code, ended.output
    return ended.output


def run_of(said: Any, pipeline: str) -> dict[str, Any]:
    (found,) = [run for run in said["project"]["runs"] if run["pipeline"] == pipeline]
    return dict(found)


def train_budget(report: Any) -> Any:
    (found,) = [budget for budget in report["budgets"] if budget["split"]["quote"] == "train"]
    return found


def test_runs_are_those_that_there_were(old_project: Path, said: Any) -> None:
    now = {run["run_id"]: run for run in json.loads(told("runs", "--json"))}
    then = {run["run_id"]: run for run in said["project"]["runs"]}
    assert set(now) == set(then) and {run["pipeline"] for run in then.values()} == set(PIPELINES)
    for run_id, run in then.items():
        assert {key: now[run_id].get(key) for key in run} == run


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_each_run_is_shown(old_project: Path, said: Any, pipeline: str) -> None:
    run = run_of(said, pipeline)
    shown = json.loads(told("show", run["run_id"], "--json"))
    assert shown["run"]["run_id"] == run["run_id"] and told("show", run["run_id"])
    if run["epsilon"] is not None:
        assert f"{run['epsilon']:.2f}" in told("show", run["run_id"])


def test_runs_are_compared(old_project: Path, said: Any) -> None:
    private = run_of(said, "things-private")["run_id"]
    for pipeline in ("things-plain", "things-federated", "things-encrypted"):
        other = run_of(said, pipeline)["run_id"]
        assert other in told("diff", private, other) and told("diff", other, private, "--json")


def test_the_budget_says_no_less_before_and_after_the_migration(old_project: Path, said: Any) -> None:
    then = {one["budget"]: one for one in said["project"]["status"]}
    before = statuses(LEDGER)
    told("budget", "migrate")
    assert statuses(LEDGER) == before and set(before) == set(then)
    for budget, one in then.items():
        require_no_less(one, before[budget])
    # The run that was killed came after a change of the cap, so it had the order of `things` chosen again.
    assert before["things/train/row"].delta_factor == len(ORDERS)


def test_records_hold_receipts_of_the_ledger(old_project: Path) -> None:
    assert "4 receipts" in told("budget", "verify", "--receipt", "workspace/runs")
    told("budget", "migrate")
    assert "4 receipts" in told("budget", "verify", "--receipt", "workspace/runs")


@pytest.mark.parametrize("dataset", ["things", "visits"])
@pytest.mark.parametrize("form", ["html", "json", "pdf"])
def test_reports_are_made_anew(old_project: Path, said: Any, dataset: str, form: str) -> None:
    told("budget", "report", dataset, "--format", form, "--output", f"new.{form}", "--workspace", "workspace")
    assert (old_project / f"new.{form}").stat().st_size > 10_000
    if form == "json":
        made = json.loads((old_project / "new.json").read_text())
        pipelines = (
            ("things-federated",) if dataset == "visits" else ("things-plain", "things-private", "things-encrypted")
        )
        assert {run["run"]["quote"] for run in made["runs"]} == {run_of(said, one)["run_id"] for one in pipelines}
        train = train_budget(made)
        factor = len(ORDERS) if dataset == "things" else 1
        assert train["proven"]["delta"]["value"] >= factor * 1e-5
        if dataset == "things":
            old = train_budget(json.loads((old_project / "reports/things.json").read_text()))
            for what in ("epsilon", "delta"):
                assert train["proven"][what]["value"] >= old["proven"][what]["value"]


@pytest.mark.parametrize("dataset", ["things", "visits"])
def test_exports(old_project: Path, said: Any, dataset: str) -> None:
    lines = [json.loads(line) for line in told("budget", "export", dataset).splitlines()]
    then = [one for one in said["project"]["history"] if one["dataset"] == dataset]
    assert len(lines) == len(then)
    assert told("budget", "export", dataset, "--records")


def test_what_may_not_run_and_what_may(old_project: Path) -> None:
    for config in ("plain", "private", "federated"):
        told("check", f"configs/{config}.yaml")
    told("budget", "register", "configs/plain.yaml", "--epsilon", "12")
    told("budget", "register", "configs/federated.yaml", "--epsilon", "10")
    assert (old_project / "workspace/ledger_pin.json").exists()
    line = next(one for one in told("budget", "status").splitlines() if "dataset things is of version" in one)
    assert "not compared with other datasets" not in line and "plain (SHA-256)" in line
    assert Ledger.open(LEDGER).verify().ok
    told("check", "configs/private.yaml")


def ended(*words: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, as runs of TFX need it."""
    main = "from privacy_pipeline.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", main, *words], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_killed_run_stays_paid_and_a_new_one_is_charged(old_project: Path, said: Any) -> None:
    killed, before = run_of(said, "things-killed")["run_id"], statuses(LEDGER)["things/train/row"]
    resumed = ended("resume", killed)
    assert resumed.returncode != 0 and re.search(
        r"code( and installed packages)? changed since it started", resumed.stderr
    )
    assert "charged" not in resumed.stdout + resumed.stderr
    assert statuses(LEDGER)["things/train/row"] == before
    for config in ("killed", "plain"):
        done = ended("run", f"configs/{config}.yaml", "--json")
        assert done.returncode == 0, done.stderr
    after = statuses(LEDGER)["things/train/row"]
    assert after.entries[State.STARTED] == 1
    assert after.entries[State.COMMITTED] == before.entries[State.COMMITTED] + 1
    assert after.spent_epsilon > before.spent_epsilon and after.enforced_epsilon > before.enforced_epsilon
    assert after.delta_factor == before.delta_factor == len(ORDERS)
    assert Ledger.open(LEDGER).verify().ok
    runs = json.loads(told("runs", "--json"))
    assert len(runs) == len(said["project"]["runs"]) + 2
    assert len(Ledger.open(LEDGER).unprotected_runs("things")) == 1
    for run in runs:
        assert told("show", run["run_id"])
