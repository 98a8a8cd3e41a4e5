"""What commands and Python share: the rule of DATASET or CONFIG, and what each function gathers."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.api.configs import NO_FILE, file_of
from privacy_pipeline.api.register import register
from privacy_pipeline.api.runs import runs, summary_of
from privacy_pipeline.api.status import status
from privacy_pipeline.api.targets import DEFAULT_LEDGER, DEFAULT_WORKSPACE, is_config, named
from privacy_pipeline.cli.main import app
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger import Ledger, Policy, Registration, SplitCount
from privacy_pipeline.pipelines.workspace.workspace import STATE_FILE, RunFolder
from tests.cli.test_tables import make_state
from tests.pipelines.projects import write_project
from tests.reports.records import dp_record, make_summary


@pytest.mark.parametrize(("target", "config"), [("things", False), ("a.b", False), ("c.yaml", True), ("c.yml", True)])
def test_a_name_with_the_ending_of_a_config_is_one(target: str, config: bool) -> None:
    assert is_config(target) == is_config(Path(target)) == config
    assert is_config({"pipeline": "p"})


def test_what_is_named_has_a_ledger_and_a_workspace(tmp_path: Path) -> None:
    config = write_project(tmp_path)
    of_config = named(config)
    assert (of_config.dataset, of_config.ledger, of_config.workspace) == ("things", config.ledger, config.workspace)
    assert named(config, ledger="sqlite:///other.db").ledger == "sqlite:///other.db"
    by_name, nothing = named("things"), named(None)
    assert (by_name.dataset, by_name.ledger, by_name.workspace) == ("things", DEFAULT_LEDGER, DEFAULT_WORKSPACE)
    assert (nothing.dataset, nothing.config) == (None, None)
    assert file_of(config) == file_of({}) == NO_FILE and file_of("c.yaml") == Path("c.yaml")


def test_a_registration_needs_one_cap(tmp_path: Path) -> None:
    config = write_project(tmp_path)
    for caps in ({}, {"epsilon": 1.0, "policy": "p.yaml"}, {"delta": 1e-5}):
        with pytest.raises(BadInputError, match="a budget needs a cap"):
            register(config, **caps)  # type: ignore[arg-type]
    assert not (tmp_path / "ledger").exists()


def test_the_status_of_a_dataset_has_its_own_shares_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger = Ledger.open(url, create=True)
    for name in ("one", "two"):
        registration = Registration(
            dataset=name,
            span=None,
            unit="row",
            contribution_bound=1,
            relation=Relation.ZERO_OUT,
            splits={"train": SplitCount(rows=10, units=10)},
            columns=(),
            digest={"one": "a", "two": "b"}[name] * 64,
            registered="2026-01-01T00:00:00+00:00",
        )
        ledger.register(registration, epsilon=3.0, delta=1e-5)
        ledger.apply_policy(
            Policy(dataset=name, epsilon=3.0, delta=1e-5, unit="row", shares={"train": 0.9, "tune": 0.1})
        )
    assert {share.budget for share in status(ledger=url).shares} == {"one/train/row", "two/train/row"}
    assert {share.budget for share in status("one", ledger=url).shares} == {"one/train/row"}
    told = CliRunner().invoke(app, ["budget", "status", "one", "--ledger", url]).output
    assert "one/train/row: purpose tune" in told and "two/train/row" not in told


def test_a_run_folder_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    for name, summary in (("run-1", make_summary(dp_record())), ("run-2", None)):
        folder = RunFolder(tmp_path / "runs" / name)
        folder.path.mkdir(parents=True)
        folder.write_state(make_state(run_id=name))
        if summary is not None:
            folder.write_summary(summary)
    (tmp_path / "runs/run-3").mkdir()
    (tmp_path / "runs/run-3" / STATE_FILE).write_text("{")
    found = runs(tmp_path)
    assert [run.run_id for run in found] == ["run-1", "run-2"] and "run-3" in found.left_out[0]
    assert found.find("run-1").record == found[0].record and found[1].record is None and found[1].metrics == {}
    assert summary_of("run-1", workspace=tmp_path).run_id == "run-1"
    with pytest.raises(BadInputError, match="run-2 has no metrics yet"):
        summary_of("run-2", workspace=tmp_path)
