"""Everything that touched a dataset is in its report, also runs that left no record."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.pipelines.registration.register import register_dataset
from privacy_pipeline.pipelines.reporting.reporting import evidence
from privacy_pipeline.pipelines.workspace.run_state import NodeState
from privacy_pipeline.pipelines.workspace.workspace import RunFolder
from privacy_pipeline.reports.dataset.compose import dataset_report
from privacy_pipeline.reports.figures import plain
from privacy_pipeline.reports.render.html import to_html
from tests.cli.test_tables import make_state
from tests.pipelines.projects import make_spec, write_project


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    config = write_project(tmp_path, backend="plain")
    register_dataset(config=config, epsilon=3.0, delta=1e-5)
    return config


def add_run(config: PipelineConfig, run_id: str, **nodes: str) -> None:
    folder = RunFolder(config.workspace / "runs" / run_id)
    folder.path.mkdir(parents=True)
    folder.write_spec(make_spec(config, run_id=run_id, run_dir=folder.path))
    states = {name: NodeState.model_validate({"status": status}) for name, status in nodes.items()}
    folder.write_state(make_state(run_id=run_id, status="failed", nodes=states))


def test_a_run_that_read_the_data_and_failed_is_listed_as_not_covered(config: PipelineConfig) -> None:
    """A plain run computes exact statistics on registered data, whether it ends well or not."""
    add_run(config, "run-1", ExampleGen="done", StatisticsGen="done", Trainer="failed", Pusher="waiting")
    add_run(config, "run-2", ExampleGen="cached", StatisticsGen="waiting")  # nothing new was made
    other = config.model_copy(update={"dataset": config.dataset.model_copy(update={"name": "others"})})
    add_run(other, "run-3", ExampleGen="done")
    found = evidence("things", ledger=config.ledger, workspaces=[config.workspace])
    assert [(run.run_id, list(run.nodes)) for run in found.unrecorded] == [
        ("run-1", ["ExampleGen", "StatisticsGen", "Trainer"])
    ]
    report = dataset_report(found)
    scope = " ".join(plain(statement.words) for statement in report.checklist[7].statements)
    assert "NOT covered: run run-1 (failed) has no record" in scope and "anyone who can read that sees them" in scope
    first = " ".join(plain(statement.words) for statement in report.first_page[4].statements)
    assert "1 run(s) read this data and did not finish with a record" in first
    assert "run-1" in to_html(report) and "run-3" not in to_html(report)
    assert report.model_dump()["unrecorded_runs"][0]["nodes"]["quote"] == "ExampleGen, StatisticsGen, Trainer"


def test_a_run_whose_spec_cannot_be_read_is_told(config: PipelineConfig) -> None:
    add_run(config, "run-1", ExampleGen="done")
    (config.workspace / "runs" / "run-1" / "spec.json").write_text("{")
    told: list[str] = []
    found = evidence("things", ledger=config.ledger, workspaces=[config.workspace], left_out=told.append)
    assert found.unreadable == ["run-1"] and len(told) == 1
