"""Commands that only read stored values start without TensorFlow, Beam, TFX and dp_accounting."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.registration import Registration, SplitCount
from privacy_pipeline.pipelines.workspace.workspace import RunFolder
from tests.cli.test_tables import make_state
from tests.reports.records import UNITS, dp_record, make_plan, make_summary

HEAVY = {"tensorflow", "tfx", "apache_beam", "tensorflow_transform", "tensorflow_privacy", "ml_metadata"}
CALL = """
import json, sys
from privacy_pipeline.cli.main import app
code = app(json.loads(sys.argv[1]), standalone_mode=False)
print("\\nMODULES", json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def modules_after(*arguments: str, folder: Path) -> tuple[str, set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", CALL, json.dumps(arguments)], capture_output=True, text=True, cwd=folder, check=False
    )
    text, _, modules = done.stdout.rpartition("\nMODULES ")
    assert modules, done.stderr
    return text, set(json.loads(modules))


def test_the_entry_point_is_light() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import privacy_pipeline.cli.main"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "privacy_pipeline" in imported
    assert not imported & (HEAVY | {"dp_accounting", "scipy", "pandas", "numpy"})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A ledger with one committed entry and a workspace with one run."""
    plan = make_plan()
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger/ledger.db", create=True)
    registration = Registration(
        dataset="things",
        span=None,
        unit="row",
        contribution_bound=1,
        relation=Relation.ZERO_OUT,
        splits={"train": SplitCount(rows=UNITS, units=UNITS)},
        columns=(),
        digest="d" * 64,
        registered="2026-01-01T00:00:00+00:00",
    )
    ledger.register(registration, epsilon=3.0, delta=1e-5)
    with ledger.spend(
        dataset="things", span=None, data_digest="d" * 64, split="train", run_id="r", node="Trainer", plan=plan
    ) as grant:
        grant.start()
        grant.commit(plan.event)
    folder = RunFolder(tmp_path / "workspace" / "runs" / "run-1")
    folder.path.mkdir(parents=True)
    folder.write_state(make_state(config_path=str(tmp_path / "c.yaml")))
    folder.write_summary(make_summary(dp_record()))
    return tmp_path


def test_a_report_needs_no_tensorflow(project: Path) -> None:
    text, modules = modules_after("budget", "report", "things", "--format", "json", "--output", "-", folder=project)
    assert '"report_version": 4' in text and not modules & HEAVY


def test_the_reports_help_is_light(project: Path) -> None:
    _, modules = modules_after("budget", "report-schema", folder=project)
    assert not modules & (HEAVY | {"dp_accounting", "fpdf", "jinja2"})


@pytest.mark.slow_but("budget status --json-", "runs --json-", "diff run-1 run-1-")
@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("budget", "status", "--json"), '"spent_epsilon": 0.6'),
        (("budget", "status"), "things"),
        (("runs", "--json"), '"epsilon": 0.63'),
        (("runs",), "-DP"),
        (("show", "run-1"), "at delta 1e-05"),
        (("diff", "run-1", "run-1"), "at delta 1e-05"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_reading_commands_load_nothing_heavy(project: Path, command: tuple[str, ...], says: str) -> None:
    text, modules = modules_after(*command, folder=project)
    assert says in text
    assert not modules & HEAVY
    assert "dp_accounting" not in modules
