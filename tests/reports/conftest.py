"""A dataset's report, made once for all tests that read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy_pipeline.reports.dataset.compose import dataset_report
from privacy_pipeline.reports.dataset.dataset_report import DatasetReport
from privacy_pipeline.reports.dataset.evidence import Evidence, UnrecordedRun, read_ledger
from privacy_pipeline.reports.dataset.facts import load_facts
from tests.reports import several_budgets
from tests.reports.report_project import FACTS_YAML, make_project, summaries

RUNS = [f"run-{number}" for number in range(1, 7)]
GENERATED = "2026-11-23"


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ledger, workspace and facts file; read only."""
    folder = tmp_path_factory.mktemp("project")
    make_project(folder)
    (folder / "facts.yaml").write_text(FACTS_YAML)
    return folder


@pytest.fixture(scope="session")
def evidence(project: Path) -> Evidence:
    """What the report is made from."""
    return Evidence(
        dataset="things",
        ledger=read_ledger(f"sqlite:///{project}/ledger/ledger.db", "things"),
        runs=summaries(project, RUNS),
        unreadable=["run-9"],
        unrecorded=[UnrecordedRun(run_id="run-8", status="failed", nodes=["ExampleGen", "StatisticsGen"])],
        facts=load_facts(project / "facts.yaml"),
        generated=GENERATED,
    )


@pytest.fixture(scope="session")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the project with several budgets; read only."""
    folder = tmp_path_factory.mktemp("several")
    several_budgets.make_several(folder)
    (folder / "facts.yaml").write_text(FACTS_YAML)
    return folder


@pytest.fixture(scope="session")
def several_report(several: Path) -> DatasetReport:
    """The report on it."""
    return dataset_report(
        Evidence(
            dataset="things",
            ledger=read_ledger(f"sqlite:///{several}/ledger/ledger.db", "things"),
            runs=summaries(several, several_budgets.RUNS),
            facts=load_facts(several / "facts.yaml"),
            generated=GENERATED,
        )
    )


@pytest.fixture(scope="session")
def one_report(evidence: Evidence) -> DatasetReport:
    """The report on the project with one budget."""
    return dataset_report(evidence)


@pytest.fixture(scope="session")
def report(one_report: DatasetReport) -> DatasetReport:
    """The same; a module may trace another one beside it."""
    return one_report
