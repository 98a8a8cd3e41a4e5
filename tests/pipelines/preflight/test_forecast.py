"""What `budget forecast` and a refusal propose is what the ledger then grants, and not more noise than that takes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from privacy_pipeline.cli.main import app
from privacy_pipeline.config.loader import load_config
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.policy import Policy
from privacy_pipeline.pipelines.preflight import preflight
from privacy_pipeline.pipelines.preflight.forecast import Fitting, fitting
from privacy_pipeline.pipelines.registration.register import register_dataset
from privacy_pipeline.pipelines.workspace.workspace import Workspace
from tests.cli.test_tables import make_state
from tests.pipelines.projects import make_spec, write_project

# Shuffled batches claim no amplification, and their epsilon is quickly computed.
TARGET = {"training": {"dp_sgd": {"target_epsilon": 0.3, "delta": 1e-5, "sampling": "shuffled"}}}


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The config file of a project whose dataset has a budget of epsilon 0.7 and asks for 0.3 a run."""
    monkeypatch.chdir(tmp_path)
    return write_file(tmp_path, **TARGET)


def write_file(root: Path, *, epsilon: float = 0.7, **sections: Any) -> Path:
    config = write_project(root, backend="dp_sgd", **sections)
    register_dataset(config=config, epsilon=epsilon, delta=1e-5)
    path = root / "c.yaml"
    document = config.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
    path.write_text(yaml.safe_dump(document))
    return path


def train(path: Path, *overrides: str, name: str, runs: int = 1) -> None:
    """Spends what runs of the config would spend, through the ledger's own door."""
    config = load_config(path, overrides=overrides)
    checked = preflight.check(config, span=1)
    assert checked.plan is not None and checked.registration is not None
    where = {"dataset": "things", "span": 1, "split": "train", "data_digest": checked.registration.digest}
    ledger = Ledger.open(config.ledger)
    for number in range(runs):
        with ledger.spend(**where, run_id=f"{name}-{number}", node="Trainer", plan=checked.plan) as grant:
            grant.start()
            grant.commit(checked.plan.event)


def proposed(path: Path, *, runs: int = 1, overrides: tuple[str, ...] = ()) -> Fitting | None:
    config = load_config(path, overrides=overrides)
    return fitting(config, preflight.check(config, span=1), span=1, runs=runs)


@pytest.mark.slow
def test_the_runs_that_fit_succeed_and_the_next_is_told_what_would_fit(project: Path) -> None:
    path = str(project)
    said = json.loads(call("budget", "forecast", path, "--json").stdout)
    count = said["run"]["runs_that_fit"]
    assert count >= 2  # composed runs cost less than their sum
    assert call("check", path).exit_code == 0
    train(project, name="run", runs=count)
    refused = call("run", path)
    assert refused.exit_code == 4
    assert not list((project.parent / "workspace").glob("runs/*")), "a run began"
    text = " ".join(refused.output.split())
    assert "refused: this run costs epsilon" in text and "the cap is 0.700" in text and "remain" in text
    override = re.search(r"--set (\S+)", text)
    assert override is not None and override[1].startswith("training.dp_sgd.target_epsilon=")
    assert call("check", path, "--set", override[1]).exit_code == 0
    train(project, override[1], name="smaller")
    assert call("budget", "verify").exit_code == 0


@pytest.mark.slow_but("4")
@pytest.mark.parametrize("runs", [1, 4])
def test_so_many_runs_with_the_noise_fit_and_with_less_noise_they_do_not(project: Path, runs: int) -> None:
    train(project, name="first")
    fits = proposed(project, runs=runs)
    assert fits is not None and fits.target_epsilon is not None and fits.runs_that_fit >= runs
    noise = f"training.dp_sgd.noise_multiplier={fits.noise_multiplier - 0.002}"
    less = preflight.check(load_config(project, overrides=(noise, "training.dp_sgd.target_epsilon=null")), span=1)
    assert less.forecast is not None and less.forecast.runs_that_fit < runs
    train(project, fits.override, name="run", runs=runs)


def test_a_share_of_the_policy_counts(project: Path) -> None:
    whole = proposed(project)
    Ledger.open(load_config(project).ledger).apply_policy(
        Policy(dataset="things", epsilon=0.7, delta=1e-5, unit="row", shares={"train": 0.25, "tune": 0.75})
    )
    part = proposed(project)
    assert whole is not None and part is not None and part.noise_multiplier > 1.5 * whole.noise_multiplier


@pytest.mark.slow
def test_where_nothing_remains_nothing_is_proposed(project: Path) -> None:
    Ledger.open(load_config(project).ledger).apply_policy(
        Policy(dataset="things", epsilon=0.7, delta=1e-5, unit="row", shares={"train": 0.0})
    )
    assert proposed(project) is None
    refused = call("check", str(project))
    assert refused.exit_code == 4 and "no noise makes a run fit" in " ".join(refused.output.split())
    assert "none fits" in call("budget", "forecast", str(project)).output


def test_a_config_with_a_noise_multiplier_is_told_one(tmp_path: Path) -> None:
    fits = proposed(write_file(tmp_path, training={"dp_sgd": {"noise_multiplier": 1.0, "delta": 1e-5}}))
    assert fits is not None and fits.target_epsilon is None
    assert fits.override == f"training.dp_sgd.noise_multiplier={fits.noise_multiplier!r}"


def test_forecast_as_text_and_markdown(project: Path) -> None:
    noise = ("--set", "training.dp_sgd.target_epsilon=null", "--set", "training.dp_sgd.noise_multiplier=30.0")
    text = call("budget", "forecast", str(project), "--runs", "4", *noise).output
    assert (
        "noise for 4 runs" in text
        and "counted against the cap: 0.000 of 0.700, 0.700 remain" in text
        and "--set training.dp_sgd.noise" in text
    )
    table = call("budget", "forecast", str(project), "--markdown", *noise).output
    assert "| as configured |" in table and "noise that fits" in table
    assert call("budget", "forecast", str(project), "--runs", "0", *noise).exit_code == 2


def test_plain_runs_spend_nothing(tmp_path: Path) -> None:
    config = write_project(tmp_path)
    assert fitting(config, preflight.check(config, span=1), span=1) is None
    with pytest.raises(BadInputError, match="--runs"):
        fitting(config, preflight.check(config, span=1), span=1, runs=0)


@pytest.mark.slow
def test_a_tuning_is_forecast_as_a_whole_from_its_own_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tuning = {"method": "each", "trials": 4, "space": {"learning_rate": [0.01, 0.1]}}
    path = write_file(tmp_path, training={**TARGET["training"], "tuning": tuning})
    config = load_config(path)
    checked = preflight.check(config, span=1)
    assert checked.plan is not None and checked.forecast is not None and checked.charges[0].ask.purpose == "tune"
    facts: dict[str, Any] = preflight.forecast_facts(checked.plan, checked.forecast)
    assert 0.29 < facts["epsilon"] <= 0.3 and facts["epsilon_one_trial"] < 0.2
    ledger = Ledger.open(config.ledger)
    ledger.apply_policy(
        Policy(dataset="things", epsilon=0.7, delta=1e-5, unit="row", shares={"train": 0.9, "tune": 0.1})
    )
    refused = " ".join(call("check", str(path)).output.split())
    assert "purpose 'tune' may use 10% of the budget" in refused
    fits = proposed(path)
    assert fits is not None and fits.noise_multiplier > checked.plan.noise_multiplier
    assert preflight.check(load_config(path, overrides=[fits.override]), span=1).charges[0].forecast.fits


def test_a_dataset_is_forecast_by_the_config_of_its_newest_run(project: Path) -> None:
    unknown = call("budget", "forecast", "things")
    assert unknown.exit_code == 2 and "has no run on dataset 'things'" in " ".join(unknown.output.split())
    config = load_config(project)
    folder = Workspace(config).new_run()
    folder.write_spec(make_spec(config, run_dir=folder.path))
    folder.write_state(make_state())
    by_dataset = json.loads(call("budget", "forecast", "things", "--json").stdout)
    assert by_dataset == json.loads(call("budget", "forecast", str(project), "--json").stdout)
    refused = call("budget", "forecast", "things", "--set", "cache=false")
    assert refused.exit_code == 2 and "--set goes with a CONFIG" in refused.output


@pytest.mark.parametrize("command", ["status", "history"])
def test_a_dataset_and_its_config_name_the_same_budget(project: Path, command: str) -> None:
    train(project, name="run")
    named, listed, before = (
        json.loads(call("budget", command, *asked, "--json").stdout)
        for asked in (("things",), (str(project),), ("--dataset", "things"))
    )
    assert named and named == listed == before
    assert call("budget", "export", "things").stdout == call("budget", "export", str(project)).stdout
    assert call("budget", command, "absent.yaml").exit_code == 2
