"""The budget is asked before TFX starts: exit code 4, and the ledger is as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Project


def _refused(project: Project, *args: str) -> str:
    ended = project.cli(*args)
    assert ended.code == 4, ended.text
    assert "Traceback" not in ended.text
    assert "starting TFX" not in ended.text
    assert project.runs() == []
    assert project.pushed("adult-dp") == []
    assert project.entries() == []
    return ended.text


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", pytest.param("check", marks=pytest.mark.slow)])
def test_a_run_over_the_budget_is_refused(project: Project, command: str) -> None:
    project.done("budget", "register", "configs/dp.yaml", "--epsilon", "1")
    before = project.budget()
    text = _refused(project, command, "configs/dp.yaml")
    assert "budget of dataset 'adult' refused" in text
    assert "the cap is 1.000, 1.000 remain" in text
    assert "budget forecast" in text
    smaller = text.split("--set ")[1].split()[0]
    assert project.done("check", "configs/dp.yaml", "--set", smaller, "--json").json["forecast"]["runs_that_fit"] == 1
    assert project.budget() == before


@pytest.mark.parametrize("command", ["run", "check"])
def test_who_may_not_spend_reads_nothing(project: Project, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    policy = ["dataset: adult", "epsilon: 10.0", "delta: 1.0e-5", "unit: row", "may_spend: [alice]"]
    (project.root / "p.yaml").write_text("\n".join(policy))
    project.done("budget", "register", "configs/dp.yaml", "--policy", "p.yaml")
    monkeypatch.setenv("PRIVACY_PIPELINE_USER", "bob")
    text = _refused(project, command, "configs/dp.yaml")
    assert "bob may not use dataset adult" in text and "alice" in text


def test_an_unregistered_dataset_is_refused(project: Project) -> None:
    project.done("budget", "register", "configs/dp.yaml", "--epsilon", "10", "--set", "dataset.name=other")
    text = _refused(project, "run", "configs/dp.yaml")
    assert "dataset 'adult', span 1, is not registered" in text
    assert "privacy-pipeline budget register" in text


def test_a_missing_ledger_refuses(project: Project) -> None:
    text = _refused(project, "run", "configs/dp.yaml")
    assert "budget register" in text
    assert not (project.root / "ledger").exists()


@pytest.mark.slow
def test_data_that_changed_after_registration_is_refused(project: Project) -> None:
    project.done("budget", "register", "configs/dp.yaml", "--epsilon", "10")
    project.set_cell(project.train, 2, "age", "40")
    text = _refused(project, "run", "configs/dp.yaml")
    assert "the files of dataset 'adult' are not the ones that were registered" in text


@pytest.mark.slow
def test_registered_data_under_another_name_is_not_a_fresh_budget(project: Project) -> None:
    project.done("budget", "register", "configs/dp.yaml", "--epsilon", "10")
    ended = project.cli("budget", "register", "configs/dp.yaml", "--epsilon", "10", "--set", "dataset.name=other")
    assert ended.code in (2, 4), ended.text
    assert "'adult'" in ended.text or "dataset adult" in ended.text
    assert len(project.done("budget", "status", "--json").json) == 1


@pytest.mark.slow
def test_registering_twice_changes_nothing(project: Project) -> None:
    project.done("budget", "register", "configs/dp.yaml", "--epsilon", "10")
    before = project.budget()
    project.done("budget", "register", "configs/dp.yaml", "--epsilon", "10")
    assert project.budget() == before
    assert before["spent_epsilon"] == 0


@pytest.mark.slow
def test_check_forecasts_from_the_registered_units(project: Project) -> None:
    project.done("budget", "register", "configs/dp.yaml", "--epsilon", "10")
    facts = project.done("check", "configs/dp.yaml", "--json").json
    assert facts["plan"]["units"] == 1_200
    assert facts["plan"]["steps"] == 3
    assert facts["forecast"]["fits"]
    assert 2.9 < facts["forecast"]["epsilon"] <= 3.0
    assert project.runs() == []
    assert project.entries() == []


def test_check_of_a_plain_config_says_that_it_guarantees_nothing(project: Project) -> None:
    text = project.done("check", "configs/plain.yaml").text
    assert "no training guarantee" in text
    assert project.runs() == []
