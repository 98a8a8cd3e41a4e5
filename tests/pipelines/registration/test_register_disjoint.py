"""`budget register --disjoint` reads the keys of the span's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from privacy_pipeline.cli.main import app
from tests.pipelines.projects import csv_text, write_project


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Spans 1 and 2 of different persons; span 3 has one of span 1."""
    monkeypatch.chdir(tmp_path)
    project = write_project(tmp_path, backend="dp_sgd", dataset={"privacy_unit": {"key": "person"}})
    document = project.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(document))
    for span, train, evaluation in ((1, 0, 300), (2, 600, 900), (3, 1200, 0)):
        for split, first in (("train", train), ("eval", evaluation)):
            folder = tmp_path / "data" / f"span-{span}" / split
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "rows.csv").write_text(csv_text(30, first=first))
    return "c.yaml"


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["budget", *arguments])


def test_spans_of_different_persons_have_a_budget_each(config: str) -> None:
    for span in (1, 2):
        said = call("register", config, "--epsilon", "3", "--disjoint", "--set", f"dataset.span={span}")
        assert said.exit_code == 0, said.output
    assert "span 2" in call("status").output
    refused = call("register", config, "--epsilon", "3", "--disjoint", "--set", "dataset.span=3")
    said = " ".join(refused.output.split())
    assert refused.exit_code == 2 and "units of the new span are in span 1 too" in said
    assert call("register", config, "--epsilon", "3", "--set", "dataset.span=3").exit_code == 0
    assert call("verify").exit_code == 0
