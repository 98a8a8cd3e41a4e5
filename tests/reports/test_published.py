"""What `budget publish` writes: what is on the allow-list alone, and every field is on it or held back by name."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import typing
from pathlib import Path

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from privacy_pipeline.accounting import record as record_parts
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.cli.main import app
from privacy_pipeline.dp.attacks.audit import AuditResult
from privacy_pipeline.ledger.audit.export import COLUMNS
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.reports import published
from privacy_pipeline.reports.record.summary import RunSummary
from tests.reports.records import UNITS
from tests.reports.report_project import DIGEST, FACTS_YAML, make_project

TIME_OF_DAY = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}")


def kinds(root: type[BaseModel]) -> set[type[BaseModel]]:
    """A model and all models in it, those that are held back whole aside."""
    found: set[type[BaseModel]] = set()
    waiting: list[object] = [root]
    while waiting:
        kind = waiting.pop()
        waiting += typing.get_args(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in found:
            found.add(kind)
            told = published.PUBLISHED.get(kind, frozenset(kind.model_fields))
            waiting += [field.annotation for name, field in kind.model_fields.items() if name in told]
    return found


def test_every_field_is_published_or_held_back_by_name() -> None:
    for kind in kinds(RunSummary):
        told, held = published.PUBLISHED[kind], set(published.HELD_BACK.get(kind, {}))
        assert told | held == set(kind.model_fields), kind
        assert not told & held, kind
    assert published.ENTRY | set(published.ENTRY_HELD_BACK) == set(COLUMNS)
    audit = {field.name for field in dataclasses.fields(AuditResult)}
    assert published.AUDIT | set(published.AUDIT_HELD_BACK) == audit
    assert set(published.PUBLISHED) == kinds(RunSummary)


def test_a_new_field_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wider(record_parts.Versions):
        rows_read: int = 5_000

    made = Wider(code="c", lock="l", data="d" * 64, packages={})
    monkeypatch.setitem(published.PUBLISHED, Wider, published.PUBLISHED[record_parts.Versions])  # type: ignore[arg-type]
    assert "rows_read" not in published._public(made, lambda digest: "covered")

    class Unknown(BaseModel):
        rows_read: int = 5_000

    with pytest.raises(KeyError):
        published._value([Unknown()], lambda digest: digest)


@pytest.fixture(params=[Relation.ZERO_OUT, Relation.ADD_OR_REMOVE_ONE])
def relation(request: pytest.FixtureRequest) -> Relation:
    found: Relation = request.param
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relation: Relation) -> Path:
    """What was published of a dataset with several runs, whose records are of a version with plain digests."""
    monkeypatch.chdir(tmp_path)
    make_project(tmp_path, relation=relation)
    Ledger.open(f"sqlite:///{tmp_path}/ledger/ledger.db").digest_secret()
    (tmp_path / "facts.yaml").write_text(FACTS_YAML)
    ended = publish("things", "out", "--facts", "facts.yaml")
    assert ended.exit_code == 0, ended.output
    return tmp_path / "out"


def publish(*arguments: str) -> typing.Any:
    return CliRunner().invoke(app, ["budget", "publish", *arguments])


def texts(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_published_files_hold_no_time_of_day_no_plain_digest_and_no_exact_metric(folder: Path) -> None:
    found = texts(folder)
    assert {"report.html", "report.json", "entries.jsonl", "held_back.json", "runs/run-1/summary.json"} <= set(found)
    summaries = json.loads((folder.parent / "workspace/runs/run-1/summary.json").read_text())
    accuracy = str(summaries["slices"][0]["metrics"]["accuracy"])
    for name, text in found.items():
        assert not TIME_OF_DAY.findall(text), name
        assert DIGEST[:12] not in text, name
        assert accuracy not in text, name
        assert '"seconds"' not in text and "build_seconds" not in text, name


def test_no_time_of_a_run_and_no_name_of_a_user_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of version 0.1.0 were named by the second in which they began: the next one told how long one took."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRIVACY_PIPELINE_USER", "dr-no")
    make_project(tmp_path)
    runs = tmp_path / "workspace/runs"
    (runs / "run-1").rename(runs / "20260101-101112-abcd")
    summary = runs / "20260101-101112-abcd/summary.json"
    summary.write_text(summary.read_text().replace("run-1", "20260101-101112-abcd"))
    assert publish("things", "out").exit_code == 0
    found = texts(tmp_path / "out")
    assert "runs/20260101-abcd/summary.json" in found
    for name, text in found.items():
        assert "101112" not in name + text and "dr-no" not in text, name


def test_the_published_record_is_a_record_whose_receipt_verifies(folder: Path) -> None:
    for file in folder.glob("runs/*/summary.json"):
        document = json.loads(file.read_text())
        record = PrivacyRecord.model_validate(document["record"])
        assert record.versions.data.startswith("hmac-sha256:")
        assert record.guarantee is None or record.mechanism is not None
    ended = CliRunner().invoke(app, ["budget", "verify", "--receipt", "out", "--json"])
    assert ended.exit_code == 0 and json.loads(ended.stdout)["receipts"] >= 3, ended.output


def test_numbers_of_units_are_in_it_under_zero_out_alone(folder: Path, relation: Relation) -> None:
    numbers = (f"{UNITS:,}", str(UNITS))
    found = [name for name, text in texts(folder).items() for number in numbers if re.search(rf"\b{number}\b", text)]
    assert bool(found) == (relation is Relation.ZERO_OUT)


def test_only_the_runs_that_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_project(tmp_path)
    assert publish("things", "out", "--run", "run-2", "--json").exit_code == 0
    assert [file.parent.name for file in Path("out").glob("runs/*/*")] == ["run-2"]
    again = publish("things", "out")
    assert again.exit_code == 2 and "not an empty folder" in again.output
    unknown = publish("things", "other", "--run", "run-77")
    assert unknown.exit_code == 2 and "run-77" in unknown.output and not Path("other").exists()


def test_the_report_says_which_records_hold_a_plain_digest(folder: Path) -> None:
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", (folder / "report.html").read_text())).split())
    assert "plain, and left out here: the record's digest of the data" in text
