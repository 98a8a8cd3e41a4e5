"""Bad input to `federated run` and to a federated pipeline's `check`: exit code 2, one line that names it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from federated.experiments import engines
from privacy_pipeline.cli.main import app
from privacy_pipeline.ledger.ledger import Ledger
from tests.federated.experiments import logistic
from tests.federated.experiments.experiment_files import PRIVACY, write_experiment, write_people
from tests.pipelines.projects import KEYED, csv_text, write_project

TRAIN = "people/span-1/train/people.csv"
COHORT = {"clients_per_round: 10": "clients_per_round: 61"}
NO_CLIENTS = {"rounds: 6": "  clients: {rule: iid, clients: 5000}\nrounds: 6"}


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def errors_of(text: str) -> list[str]:
    """Messages of what `--json` printed: one for the command, or one for each run."""
    found = json.loads(text)
    return [part["error"] for part in (found if isinstance(found, list) else [found])]


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(engines, "build", logistic.build)
    write_people(tmp_path)
    return tmp_path


def emptied(folder: Path) -> None:
    """The key of the third row is empty."""
    lines = (folder / TRAIN).read_text().splitlines()
    lines[3] = "," + lines[3].partition(",")[2]
    (folder / TRAIN).write_text("\n".join(lines) + "\n")


def giant(folder: Path) -> None:
    """One client has 400 rows."""
    with (folder / TRAIN).open("a") as stream:
        stream.writelines(f"7,0.{number},0.5,1,no\n" for number in range(400))


def nobody(folder: Path) -> None:
    """No client has a row."""
    (folder / TRAIN).write_text("who,x,z,town,y\n")


def as_it_is(folder: Path) -> None:
    pass


CASES: list[tuple[str, Callable[[Path], None], dict[str, str], str]] = [
    ("fewer clients than the cohort", as_it_is, COHORT, "cohort of 61 clients cannot be drawn from 60"),
    ("clients without examples", as_it_is, NO_CLIENTS, "5,?000 clients"),
    ("no examples at all", nobody, {}, "has no rows|no rows, so there are no clients"),
    ("a key with nulls", emptied, {}, r"people.csv:4: column 'who': the row has no privacy unit"),
    ("one giant client", giant, {}, r"client 7 has 40\d rows, more than the contribution_bound 4"),
    ("an unknown algorithm", as_it_is, {"algorithm:": "algorithm:\n  name: fedavgg"}, "algorithm.name: .*'fedavgg'"),
]


@pytest.mark.parametrize(("change", "replaced", "message"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_a_bad_experiment_is_one_error(
    people: Path, change: Callable[[Path], None], replaced: dict[str, str], message: str
) -> None:
    change(people)
    path = write_experiment(people, **{"seeds: [1, 2]": "seeds: [1]", **replaced})
    code, text = call("federated", "run", path, "--json")
    assert code == 2
    (error,) = errors_of(text)
    assert re.search(message, error), error
    assert "\n" not in error


IMPOSSIBLE = [
    ({"clipping_norm: 0.5": "clipping_norm: 0"}, "clipping_norm: must be greater than 0"),
    ({"clipping_norm: 0.5": "clipping_norm: -1.0"}, "clipping_norm: must be greater than 0"),
    ({"clipping_norm: 0.5": "clipping_norm: .inf"}, "clipping_norm: must be a finite number|clipping_norm"),
    ({"clipping_norm: 0.5": "clipping_norm: 0.5, zeroing: true"}, "unknown key 'zeroing'"),
    ({"0.5}": "0.5, adaptive: {count_noise: 0.4}}"}, "count_noise 0.4 leaves nothing of noise multiplier 1"),
    ({"0.5}": "0.5, adaptive: {quantile: 1.5, count_noise: 4.0}}"}, "quantile: must be less than 1"),
    ({"0.5}": "0.5, adaptive: {}}"}, "count_noise 0.5 leaves nothing of noise multiplier 1"),  # a twentieth of 10
    ({"clients_per_round: 10": "clients_per_round: 61"}, "a round of 61 clients does not fit into 60"),
]


@pytest.mark.parametrize(("replaced", "message"), IMPOSSIBLE)
def test_impossible_clipping_is_one_error_and_costs_nothing(
    people: Path, replaced: dict[str, str], message: str
) -> None:
    whole = {"seeds: [1, 2]": "seeds: [1]"}
    assert call("federated", "register", write_experiment(people, **whole), "--epsilon", 90, "--delta", 1e-3)[0] == 0
    block = PRIVACY
    for old in [key for key in replaced if key in block]:
        block = block.replace(old, replaced[old])
    path = write_experiment(people, block, **{**whole, **{k: v for k, v in replaced.items() if k not in PRIVACY}})
    code, text = call("federated", "run", path, "--json")
    assert code == 2
    (error,) = errors_of(text)
    assert re.search(message, error), error
    assert Ledger.open(f"sqlite:///{people}/ledger.db").entries("people") == []


def test_a_key_with_nulls_is_not_registered(people: Path) -> None:
    emptied(people)
    code, text = call("federated", "register", write_experiment(people), "--epsilon", 9, "--delta", 1e-3, "--json")
    assert code == 2 and "people.csv:4: column 'who': the row has no privacy unit" in errors_of(text)[0]


def pipeline(root: Path, **federated: Any) -> Path:
    """A federated pipeline over 54 persons of three rows each, registered."""
    section = {"privacy": {"noise_multiplier": 4.0, "delta": 1e-5}, **federated}
    config = write_project(root, dataset=KEYED, training={"backend": "federated", "batch_size": 20, "federated": {}})
    document = config.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
    document["training"]["federated"] = section
    path = root / "c.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # Rows 160 and 161 belong to the person of row 159: whole persons on either side.
    path = pipeline(tmp_path)
    for split, first, rows in (("train", 0, 162), ("eval", 162, 39)):
        (tmp_path / f"data/span-1/{split}/rows.csv").write_text(csv_text(rows, first=first))
    code, text = call("budget", "register", path, "--epsilon", 20, "--delta", 1e-5, "--json")
    assert code == 0, text
    return path


PIPELINES = [
    ("training.batch_size=55", "batch_size: 55 clients of a round are more than the 54"),
    ("training.federated.algorithm={name: fedavgg}", "algorithm.name: .*'fedavgg'"),
    ("training.federated.privacy.clipping_norm=0", "clipping_norm: must be greater than 0"),
    ("training.federated.privacy.zeroing=true", "unknown key 'zeroing'"),
    ("training.federated.privacy.adaptive={count_noise: 1.0}", "count_noise 1 leaves nothing of noise multiplier 4"),
    ("training.federated.clients={clients: 5000}", "made-up ones are nobody"),
    ("dataset.privacy_unit=row", "needs clients"),
    ("dataset.privacy_unit.key=shade", "'shade'"),
]


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(("override", "message"), PIPELINES)
def test_a_bad_pipeline_is_one_error(project: Path, command: str, override: str, message: str) -> None:
    code, text = call(command, project, "--set", override, "--json")
    assert code in (2, 3), text
    (error,) = errors_of(text)
    assert re.search(message, error), error
    assert not (project.parent / "workspace").exists() or not list((project.parent / "workspace").glob("runs/*"))


def test_a_pipeline_that_is_sound_is_checked(project: Path) -> None:
    assert call("check", project, "--json")[0] == 0
