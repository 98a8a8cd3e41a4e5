"""Rolling windows: each run reads two spans, whose budgets are charged together, until one of them is used up."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import Project
from tests.pipelines.projects import KEYED, write_project, write_spans

NOISE = 2.0  # two such runs fit a budget, three do not


@pytest.fixture
def windows(tmp_path: Path) -> Project:
    """Spans 1 to 5 of 80 persons in the train split each, with a budget of epsilon 3 each."""
    private = {"dp_sgd": {"noise_multiplier": NOISE, "delta": 1e-5}}
    config = write_project(tmp_path, backend="dp_sgd", dataset=KEYED, training=private)
    write_spans(tmp_path, 1, 2, 3, 4, 5)
    document = config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(document))
    project = Project(tmp_path)
    for span in range(1, 6):
        project.done("budget", "register", "c.yaml", "--epsilon", "3", "--disjoint", "--set", f"dataset.span={span}")
    return project


def charges(project: Project) -> list[int]:
    """Entries of the budgets of spans 1 to 5."""
    return [sum(status["entries"].values()) for status in project.done("budget", "status", "--json").json]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_rolling_windows(windows: Project) -> None:
    def command(name: str, spans: str) -> tuple[str, ...]:
        return name, "c.yaml", "--set", f"dataset.span={spans}"

    first = windows.done(*command("run", "[1,2]"), "--json").json
    assert charges(windows) == [1, 1, 0, 0, 0]
    record = first["summary"]["record"]
    assert record["span"] == [1, 2] and record["mechanism"]["units"] == 160
    assert "train 480 rows" in first["run"]["nodes"]["ExampleGen"]["detail"]  # of both spans
    paid = [record["composition"], *record["further_compositions"]]
    assert [made["budget"] for made in paid] == ["things/train/person", "things/train/person/span-2"]

    again = windows.done(*command("run", "[2,1]"), "--json").json  # the same spans: served from cache
    assert again["run"]["cached_from"] == first["run"]["run_id"] and charges(windows) == [1, 1, 0, 0, 0]

    windows.done(*command("run", "[2,3]"))
    assert charges(windows) == [1, 2, 1, 0, 0]
    runs = windows.runs()
    refused = windows.cli(*command("run", "[2,4]"))
    assert refused.code == 4 and "starting TFX" not in refused.text
    assert "things/train/person/span-2: it would" in refused.text and "span-4: it would" not in refused.text
    assert charges(windows) == [1, 2, 1, 0, 0] and windows.runs() == runs

    last = windows.done(*command("run", "[4,5]"), "--json").json
    assert charges(windows) == [1, 2, 1, 1, 1]
    assert windows.entries() == ["committed"] * 6
    verified = windows.done("budget", "verify", "--receipt", "workspace/runs", "--json").json
    assert verified["problems"] == [] and verified["receipts"] == 6
    report = (windows.root / "workspace/runs" / last["run"]["run_id"] / "report/report.html").read_text()
    assert report.count("(spans ") == 4
