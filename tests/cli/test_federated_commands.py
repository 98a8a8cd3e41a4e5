"""`federated`: run, sweep, resume and compare from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from federated.experiments import engines
from privacy_pipeline.cli.main import app
from tests.federated.experiments import logistic
from tests.federated.experiments.experiment_files import PRIVACY, write_experiment, write_people

GRID = "sweep: {clients_per_round: [5, 20]}\n"


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(engines, "build", logistic.build)
    write_people(tmp_path)
    return tmp_path


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["federated", *map(str, arguments)])
    return result.exit_code, result.stdout


def test_sweep_and_compare(people: Path) -> None:
    path = write_experiment(people, GRID)
    code, text = call("run", path, "--json")
    assert code == 0
    assert [(run["seed"], run["settings"]) for run in json.loads(text)] == [(1, {}), (2, {})]
    code, text = call("sweep", path)
    assert code == 0
    assert text.count("✓") == 4
    code, text = call("resume", path)
    assert "nothing to resume" in text
    page = people / "page.html"
    code, text = call("compare", path, "--json", "--html", page)
    assert code == 0
    found = json.loads(text)
    assert {row["name"] for row in found["rows"]} == {"as written", "clients_per_round 5", "clients_per_round 20"}
    assert found["unfinished"] == 0
    html = page.read_text()
    assert html.count("<svg") == 3  # rounds, bytes, spread; no run has an epsilon
    for fetched in ("src=", "href=", "url(", "<script", "@import"):
        assert fetched not in html
    code, text = call("compare", path, "--markdown")
    assert text.startswith("| setting | seeds | accuracy |")
    assert "none" in text


def test_a_private_run_needs_its_registration_and_is_charged(people: Path) -> None:
    path = write_experiment(people, PRIVACY, **{"seeds: [1, 2]": "seeds: [1]"})
    code, text = call("register", path, "--epsilon", 20, "--delta", 1e-3, "--json")
    assert code == 0
    registered = json.loads(text)
    assert registered["unit"] == "who"
    assert registered["splits"]["train"]["clients"] == 60
    code, text = call("run", path, "--json")
    assert code == 0
    (run,) = json.loads(text)
    assert run["unit"] == "who"
    code, text = call("compare", path, "--markdown")
    assert "at delta 0.001, unit who, zero_out" in text
    assert "No epsilon covers the evaluation" in " ".join(text.split())
    page = (people / "runs/small/comparison.html").read_text()
    assert "Accuracy against epsilon" in page


def test_errors_end_with_their_codes(people: Path) -> None:
    path = write_experiment(people, **{"rounds: 6": "round: 6"})
    assert call("run", path)[0] == 2
    path = write_experiment(people, **{"clients_per_round: 10": "clients_per_round: 61"})
    code, text = call("run", path, "--json")
    assert code == 2
    assert "cohort of 61 clients" in json.loads(text)[0]["error"]
    assert call("compare", write_experiment(people))[0] == 2
