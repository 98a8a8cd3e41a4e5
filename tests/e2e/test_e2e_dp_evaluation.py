"""A DP evaluation through the command line: what it says, what it costs, and what is refused before data is read."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Ended, Project

_BLOCK = "    accuracy: {min: 0.1}\n  dp: {epsilon: 1.0, delta: 1.0e-5}\n"


@pytest.fixture
def evaluated(project: Project) -> Project:
    """The DP project with a DP evaluation, and a budget that holds one training and one evaluation."""
    project.edit("configs/dp.yaml", "    accuracy: {min: 0.1}\n", _BLOCK)
    project.done("budget", "register", "configs/dp.yaml", "--epsilon", "4")
    return project


def open_eval_budget(project: Project, epsilon: float) -> None:
    project.done("budget", "init", "adult", "--output", "policy.yaml")
    project.edit("policy.yaml", "# eval_epsilon: 1.0", f"eval_epsilon: {epsilon}")
    project.done("budget", "apply", "policy.yaml")


def refused(project: Project, *args: str) -> str:
    """A refusal before anything was started."""
    before = (project.entries(), len(project.runs()))
    ended = project.cli("run", "configs/dp.yaml", *args)
    assert ended.code == 4 and "starting TFX" not in ended.text and "Traceback" not in ended.text
    assert (project.entries(), len(project.runs())) == before
    return ended.text


def spent(project: Project) -> dict[str, float]:
    found: list[dict[str, Any]] = project.done("budget", "status", "--json").json
    return {budget["split"]: budget["spent_epsilon"] for budget in found}


def zeros(project: Project) -> list[str]:
    with sqlite3.connect(project.root / "ledger/ledger.db") as connection:
        return [body for (body,) in connection.execute("SELECT body FROM journal WHERE kind = 'zero' ORDER BY seq")]


def shown(project: Project, ended: Ended) -> dict[str, Any]:
    summary: dict[str, Any] = project.done("show", ended.json["run"]["run_id"], "--json").json["summary"]
    return summary


@pytest.mark.slow
def test_an_evaluation_needs_room_in_the_budget_of_the_eval_split(evaluated: Project) -> None:
    assert "split 'eval' of dataset adult has no budget" in refused(evaluated)
    open_eval_budget(evaluated, 0.5)
    assert "eval split, refused: its DP evaluation costs epsilon 1.000" in refused(evaluated)
    facts = evaluated.cli("check", "configs/dp.yaml", "--json")
    assert facts.code == 4
    assert evaluated.entries() == []


@pytest.mark.slow
def test_a_dp_evaluation_from_the_first_run_to_the_used_up_budget(evaluated: Project) -> None:
    open_eval_budget(evaluated, 1.2)
    first = evaluated.done("run", "configs/dp.yaml", "--json")
    summary = shown(evaluated, first)
    assert summary["blessed"] and summary["dp_evaluation"]["ledger_entry"] == 2
    overall = summary["slices"][0]
    low, high = overall["intervals"]["accuracy"]
    assert overall["name"] == "overall" and low < overall["metrics"]["accuracy"] < high and high - low < 0.3
    assert {part["name"] for part in summary["slices"]} == {"overall", "sex=Female", "sex=Male"}
    covered = {access["what"]: access["covered"] for access in summary["record"]["data_accesses"]}
    assert covered["evaluation metrics, blessing and slices"] and not covered["statistics and anomalies"]
    assert evaluated.entries() == ["committed", "committed"]
    after = spent(evaluated)
    assert after["eval"] == pytest.approx(1.0, abs=1e-3) and after["train"] > 3
    (published,) = evaluated.published()
    assert published["accuracy"] == pytest.approx(overall["metrics"]["accuracy"], rel=1e-5) and "auc" not in published

    # The same again, and another threshold: both come from the cache, and the ledger is told.
    assert "nothing changed since run" in evaluated.done("run", "configs/dp.yaml").text
    assert len(zeros(evaluated)) == 2
    stricter = evaluated.cli("run", "configs/dp.yaml", "--set", f"evaluation.thresholds.accuracy.min={high}")
    assert stricter.code == 3 and "with noise), which is below the threshold" in stricter.text
    assert stricter.text.count("cached; spends no budget") == 2
    assert len(zeros(evaluated)) == 4 and spent(evaluated) == after

    # Other counts are another release.
    assert "its DP evaluation costs" in refused(evaluated, "--set", "evaluation.slices=[race]")
    assert "2 receipts" in evaluated.done("budget", "verify", "--receipt", "workspace").text
    evaluated.done("budget", "report", "configs/dp.yaml")
