"""`budget verify`, `budget rotate-key` and `budget history` end with the right code and say what is wrong."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from privacy_pipeline.accounting.ledger import Ledger
from privacy_pipeline.cli.main import app
from tests.accounting.conftest import make_plan, make_registration
from tests.accounting.test_ledger import run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a ledger of two runs, and a record of each."""
    monkeypatch.chdir(tmp_path)
    ledger = Ledger.open("sqlite:///ledger/ledger.db", create=True)
    ledger.register(make_registration(), epsilon=3.0, delta=1e-5)
    for number in (1, 2):
        run(ledger, make_plan(), run_id=f"run-{number}")
        composition = ledger.composition(number).model_dump()
        folder = tmp_path / "records" / str(number)
        folder.mkdir(parents=True)
        (folder / "privacy_record.json").write_text(json.dumps({"composition": composition}))
    return tmp_path


def budget(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["budget", *arguments])


def test_verify_with_receipts(project: Path) -> None:
    ended = budget("verify", "--receipt", "records", "--public-key", "ledger/ledger_key.pub", "--json")
    found = json.loads(ended.stdout)
    assert ended.exit_code == 0 and found["ok"] and (found["receipts"], found["entries"]) == (2, 2)
    assert "8 journal records" in budget("verify").output
    with sqlite3.connect("ledger/ledger.db") as connection:
        connection.execute("DELETE FROM journal WHERE seq = 7")
    connection.close()
    ended = budget("verify", "--receipt", "records/2/privacy_record.json")
    assert ended.exit_code == 1 and "journal record 7 is missing" in " ".join(ended.output.split())


@pytest.mark.parametrize("arguments", [("--receipt", "nothing.json"), ("--receipt", "ledger"), ("--public-key", "no")])
def test_verify_with_unusable_files(project: Path, arguments: tuple[str, str]) -> None:
    assert budget("verify", *arguments).exit_code == 2


def test_rotation_and_loss(project: Path) -> None:
    rotated = json.loads(budget("rotate-key", "--json").stdout)
    assert rotated["old"] != rotated["new"] and budget("verify", "--receipt", "records").exit_code == 0
    assert budget("rotate-key", "--lost").exit_code == 1
    (project / "ledger" / "ledger_key.pem").unlink()
    assert budget("rotate-key").exit_code == 1
    lost = json.loads(budget("rotate-key", "--lost", "--json").stdout)
    assert budget("verify").exit_code == 1
    assert budget("verify", "--accept-lost-key", lost["new"]).exit_code == 0


def test_history_is_newest_first_and_paged(project: Path) -> None:
    listed = json.loads(budget("history", "--limit", "1", "--json").stdout)
    assert [entry["run_id"] for entry in listed] == ["run-2"]
    assert "run-1" in budget("history", "--dataset", "adult").output
    assert json.loads(budget("history", "--dataset", "nosuch", "--json").stdout) == []
