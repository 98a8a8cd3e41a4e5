"""Under add-or-remove-one no command and no file that is told of tells how many units or rows there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from privacy_pipeline.cli.main import app
from privacy_pipeline.cli.tables import run_table
from privacy_pipeline.pipelines.execution import details
from privacy_pipeline.reports.record.properties import metric_properties, without_secret_counts
from tests.pipelines.projects import write_project
from tests.reports.records import dp_record, make_summary

RELATIONS = ["zero_out", "add_or_remove_one"]
COUNTS = re.compile(r"\b(160|40|200)\b")


@pytest.fixture(params=RELATIONS)
def secret(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A project whose relation keeps the number of units, or not; the current folder."""
    monkeypatch.chdir(tmp_path)
    more = {"sampling_probability": 0.25} if request.param == "add_or_remove_one" else {}
    private = {"noise_multiplier": 8.0, "delta": 1e-5, "relation": request.param, **more}
    config = write_project(tmp_path, backend="dp_sgd", training={"dp_sgd": private})
    Path("config.yaml").write_text(json.dumps(config.model_dump(mode="json", by_alias=True, exclude_none=True)))
    return bool(request.param == "add_or_remove_one")


def cli(*arguments: str) -> str:
    ended = CliRunner().invoke(app, list(arguments))
    assert ended.exit_code == 0, ended.output
    return re.sub(r"\d{4}-\d{2}-\d{2}T[\d:+.]+|[0-9a-f]{16,}", "", ended.output)


def test_no_command_tells_the_counts_of_a_registration(secret: bool) -> None:
    register = ("budget", "register", "config.yaml", "--epsilon", "9", "--delta", "1e-5")
    texts = [
        cli(*register),
        cli(*register, "--json"),
        cli("budget", "export", "--records"),
        cli("budget", "history", "--all", "--json"),
    ]
    assert [bool(COUNTS.search(text)) for text in texts] == [not secret] * 4
    published = [cli("budget", "publish", "things", "out", "--json")]
    published += [file.read_text() for file in Path("out").rglob("*") if file.suffix == ".json"]
    assert any(re.search(r'"value": (160|40)\b', text) for text in published) == (not secret)


def test_nodes_tell_how_many_rows_there_are_only_where_that_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(details, "_rows", lambda artifacts: "train 160 rows")
    info = SimpleNamespace(output_dict={"examples": [], "transformed_examples": []})
    for node in ("ExampleGen", "Transform"):
        assert details.describe(node, info, counts=True) == "train 160 rows"
        assert details.describe(node, info, counts=False) == ""


@pytest.mark.parametrize("relation", RELATIONS)
def test_exact_numbers_of_evaluated_rows_are_left_out_of_metadata_and_tables(relation: str) -> None:
    summary = make_summary(dp_record().model_copy(update={"relation": relation}))
    kept = summary.model_copy(update={"slices": without_secret_counts(summary.slices, summary.record)})
    for found in (summary, kept):  # as an older version wrote it, and as it is written now
        assert ("examples" in metric_properties(found)) == (relation == "zero_out")
        shown = " ".join(str(cell) for cell in run_table(found).columns[1].cells)
        assert ("200" in shown) == (relation == "zero_out")
    assert (kept.overall.examples is None) == (relation != "zero_out")
