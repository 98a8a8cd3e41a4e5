"""A tuning through the command line: what it says beforehand, what it costs, and what it tells afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Project

_BLOCK = """\
  batch_size: 400
  tuning:
    method: repeat_and_select
    trials: 2
    distribution: geometric
    minutes: 2
    space: {learning_rate: [0.01, 0.1], hidden_units: [[8], [4]]}
"""
_EACH = ["--set", "training.tuning={method: each, trials: 2, space: {learning_rate: [0.01, 0.1]}}"]


@pytest.fixture
def tuned(project: Project) -> Project:
    """The DP project with a tuning, and a budget that holds it."""
    project.edit("configs/dp.yaml", "  batch_size: 400\n", _BLOCK)
    project.done("budget", "register", "configs/dp.yaml", "--epsilon", "8")
    return project


@pytest.mark.slow
def test_check_states_the_whole_and_what_one_trial_would_have_claimed(tuned: Project) -> None:
    facts = tuned.done("check", "configs/dp.yaml", "--json").json
    ahead = facts["forecast"]
    assert ahead["accountant"] == "RDP" and 2.9 < ahead["epsilon"] <= 3.0
    assert ahead["epsilon_one_trial"] < 0.8 * ahead["epsilon"]
    assert facts["plan"]["tuning"]["trials"] == 2
    assert "one trial alone would have claimed" in tuned.done("check", "configs/dp.yaml").text
    refused = tuned.cli("check", "configs/dp.yaml", "--set", "training.tuning.space.epochs=[1,2]")
    assert refused.code == 2 and "`epochs` changes what a trial costs" in refused.text


@pytest.mark.slow
def test_a_policy_without_a_share_for_tuning_refuses_it_before_anything_starts(tuned: Project) -> None:
    tuned.done("budget", "init", "adult", "--output", "policy.yaml")
    tuned.done("budget", "apply", "policy.yaml")
    ended = tuned.cli("run", "configs/dp.yaml")
    assert ended.code == 4 and "purpose 'tune' may use 0% of the budget" in ended.text
    assert tuned.entries() == []


@pytest.mark.slow
def test_a_tuning_from_the_run_to_the_report(tuned: Project) -> None:
    ended = tuned.done("run", "configs/dp.yaml", "--json")
    record = summary_of(tuned, ended.json["run"]["run_id"])["record"]
    assert record["tuning"]["trained"] and record["tuning"]["results"] == []
    assert record["mechanism"]["dp_event"]["type"] == "RepeatAndSelectDpEvent"
    assert record["guarantee"]["epsilon"] > record["tuning"]["epsilon_one_trial"]
    assert record["guarantee"]["epsilon_pld"] is None and "PLD" in record["guarantee"]["epsilon_missing"]
    (entry,) = tuned.done("budget", "history", "--json").json
    assert entry["purpose"] == "tune" and entry["event"] == record["mechanism"]["dp_event"]
    assert "epsilon had this been the only trial" in tuned.done("show", ended.json["run"]["run_id"]).text
    each = tuned.done("run", "configs/dp.yaml", "--json", *_EACH)
    shown = summary_of(tuned, each.json["run"]["run_id"])["record"]["tuning"]
    assert [trial["point"]["learning_rate"] for trial in shown["results"]] in ([0.01, 0.1], [0.1, 0.01])
    again = tuned.done("run", "configs/dp.yaml", "--json")
    assert again.json["run"]["run_id"] != ended.json["run"]["run_id"]
    assert len(tuned.entries()) == 2  # the third is the first again: nothing is tuned, nothing is charged


def summary_of(project: Project, run_id: str) -> dict[str, Any]:
    summary: dict[str, Any] = project.done("show", run_id, "--json").json["summary"]
    return summary
