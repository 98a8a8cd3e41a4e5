"""`audit` and what `show` makes of it: made-up data only, results beside the run, and a failure where bounds cross."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from privacy_pipeline.accounting.plan import MechanismPlan
from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.backends import private_plan
from privacy_pipeline.cli.main import app
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.pipelines.registration.register import register_dataset
from privacy_pipeline.pipelines.reporting import audits, readings
from privacy_pipeline.pipelines.workspace.workspace import RunFolder
from privacy_pipeline.reports.record.build import build_record
from tests.cli.test_tables import make_state
from tests.dp import twins
from tests.pipelines.projects import make_spec, write_project
from tests.reports.records import COMPOSITION, FACTS, make_executed, make_summary

FEW = ("--canaries", "4000")


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def project(tmp_path: Path) -> tuple[Path, PipelineConfig]:
    """A registered dataset of 160 training rows, with its config file."""
    config = write_project(tmp_path, backend="dp_sgd")
    register_dataset(config=config, epsilon=100.0, delta=1e-5)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(json.loads(config.model_dump_json(by_alias=True, exclude_none=True))))
    return path, config


def finished_run(config: PipelineConfig) -> RunFolder:
    """A run folder with the record that a run of the config leaves."""
    mechanism: MechanismPlan = private_plan.mechanism_plan(config, audits.plan_of_config(config))
    executed = make_executed(
        steps=mechanism.steps,
        epochs=mechanism.epochs,
        examples=160,
        units=160,
        event=mechanism.event,
        sampler="poisson",
        largest_participation=None,
    )
    record: PrivacyRecord = build_record(
        config=config, facts=FACTS, executed=executed, plan=mechanism, composition=COMPOSITION
    )
    folder = RunFolder(config.workspace / "runs" / "run-1")
    folder.path.mkdir(parents=True)
    folder.write_state(make_state())
    folder.write_spec(make_spec(config))
    folder.write_summary(make_summary(record))
    return folder


@pytest.mark.slow
def test_a_config_is_audited_without_its_data(project: tuple[Path, PipelineConfig]) -> None:
    path, config = project
    for file in (config.dataset.path).rglob("*.csv"):
        file.write_text("colour,size,person,bought\n")  # nothing left to read
    result = call("audit", str(path), "--json", *FEW)
    assert result.exit_code == 0, result.output
    mechanism, training = json.loads(result.stdout)["audits"]
    assert (mechanism["kind"], training["kind"]) == ("mechanism", "training")
    assert mechanism["lower_bound"] <= mechanism["upper_bound"]
    assert mechanism["canaries"] == 4000
    assert training["canaries"] == 80  # half of the units
    assert "gross faults only" in training["statement"]
    text = call("audit", str(path), "--mechanism", *FEW).stdout
    assert "epsilon at least" in text and "training" not in text.split("mechanism:")[0]


@pytest.mark.slow
def test_a_run_keeps_its_audits_and_shows_them(project: tuple[Path, PipelineConfig]) -> None:
    _, config = project
    folder = finished_run(config)
    where = ("--workspace", str(config.workspace))
    sure = ("--confidence", "0.9999")  # a sound engine exceeds its bound once in 10,000 audits
    for times in (1, 2):
        result = call("audit", "run-1", "--mechanism", *FEW, *sure, *where)
        assert result.exit_code == 0, result.output
        assert len(readings.later_audits_of(folder)) == times
    assert "claimed at most" in call("show", "run-1", *where).stdout
    assert len(json.loads(call("show", "run-1", "--json", *where).stdout)["audits"]) == 2


@pytest.mark.slow
def test_bounds_that_cross_fail_with_one_line(project: tuple[Path, PipelineConfig]) -> None:
    _, config = project
    folder = finished_run(config)
    where = ("--workspace", str(config.workspace))
    with twins.no_noise():
        result = call("audit", "run-1", "--mechanism", *FEW, *where)
        as_json = call("audit", "run-1", "--mechanism", "--json", *FEW, *where)
    assert result.exit_code == as_json.exit_code == 1
    assert "the guarantee is wrong" in " ".join(result.output.split())
    assert "the guarantee is wrong" in json.loads(as_json.stdout)["error"]
    assert len(readings.later_audits_of(folder)) == 2  # bad news is kept too


def test_what_cannot_be_audited_is_refused(project: tuple[Path, PipelineConfig], tmp_path: Path) -> None:
    path, config = project
    plain = tmp_path / "plain.yaml"
    document = yaml.safe_load(path.read_text())
    document["training"] = {"backend": "plain", "epochs": 2}
    plain.write_text(yaml.safe_dump(document))
    result = call("audit", str(plain))
    assert result.exit_code == 2 and "nothing to audit" in result.output
    assert call("audit", str(tmp_path / "missing.yaml")).exit_code == 2
    theirs = ("--set", "training.dp_sgd.engine=tensorflow_privacy", "--set", "training.dp_sgd.audit=none")
    other = call("audit", str(path), *theirs)
    assert other.exit_code == 2 and "has no audit" in " ".join(other.output.split())
    folder = finished_run(config)
    spec = folder.read_spec()
    longer = spec.config.training.model_copy(update={"epochs": 3})
    spec.config = spec.config.model_copy(update={"training": longer})
    folder.write_spec(spec)
    changed = call("audit", "run-1", "--workspace", str(config.workspace))
    assert changed.exit_code == 1 and "another plan" in " ".join(changed.output.split())
