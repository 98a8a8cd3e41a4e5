"""The report is an artifact of the run."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.pipelines.registration.register import register_dataset
from privacy_pipeline.pipelines.reporting.run_report import add_report
from privacy_pipeline.pipelines.workspace import metadata
from privacy_pipeline.pipelines.workspace.run_state import RunState
from privacy_pipeline.pipelines.workspace.workspace import RunFolder
from tests.cli.test_tables import make_state
from tests.pipelines.projects import make_spec, write_project
from tests.reports.records import make_summary, plain_record


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    return write_project(tmp_path, backend="plain")


def finished(config: PipelineConfig, *, status: str = "done") -> tuple[RunFolder, RunState]:
    folder = RunFolder(config.workspace / "runs" / "run-1")
    folder.path.mkdir(parents=True)
    folder.write_spec(make_spec(config, run_id="run-1", run_dir=folder.path))
    record = plain_record().model_copy(update={"dataset": "things"})
    folder.write_summary(make_summary(record).model_copy(update={"run_id": "run-1"}))
    state = make_state(run_id="run-1", status=status)
    folder.write_state(state)
    return folder, state


def test_a_finished_run_has_the_report_as_of_now(config: PipelineConfig) -> None:
    register_dataset(config=config, epsilon=3.0, delta=1e-5)
    folder, state = finished(config)
    add_report(folder, state, config)
    assert state.report_problem == "" and Path(state.report).parent == folder.path / "report"
    assert Path(state.report).read_text().startswith("<!DOCTYPE html>")
    made = json.loads((folder.path / "report" / "report.json").read_text())
    assert [run["run"]["quote"] for run in made["runs"]] == ["run-1"]
    assert folder.read_state().report == state.report
    store_path = metadata.connection_config(config).sqlite.filename_uri
    with sqlite3.connect(store_path) as connection:
        assert connection.execute("SELECT uri FROM Artifact").fetchall() == [(str(folder.path / "report"),)]


@pytest.mark.parametrize(("status", "known"), [("failed", True), ("done", False)])
def test_without_an_end_or_a_budget_there_is_none(config: PipelineConfig, status: str, known: bool) -> None:
    if known:
        register_dataset(config=config, epsilon=3.0, delta=1e-5)
    folder, state = finished(config, status=status)
    add_report(folder, state, config)
    assert (state.report, state.report_problem) == ("", "") and not (folder.path / "report").exists()


def test_a_ledger_that_does_not_verify_is_told(config: PipelineConfig, tmp_path: Path) -> None:
    register_dataset(config=config, epsilon=3.0, delta=1e-5)
    with sqlite3.connect(tmp_path / "ledger" / "ledger.db") as connection:
        connection.execute("UPDATE budgets SET epsilon = 30.0")
    connection.close()
    folder, state = finished(config)
    add_report(folder, state, config)
    assert state.report == "" and "does not verify" in state.report_problem
    assert "does not verify" in folder.read_state().report_problem
