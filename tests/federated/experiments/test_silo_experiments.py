"""`silo_privacy` in an experiment: registered, charged, recorded; bad silos are one clear error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from federated.experiments import engines, run
from federated.experiments.charging import silos
from federated.experiments.charging.register import register_clients
from federated.experiments.config import Point
from federated.experiments.engines import build
from federated.experiments.run import run_point
from federated.experiments.run_folder import RunFolder
from privacy_pipeline.accounting import events
from privacy_pipeline.accounting.accountants import epsilon_of
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.cli.main import app
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import State
from tests.federated.experiments.experiment_files import load_bound, write_experiment, write_people
from tests.federated.experiments.test_experiment_runs import Killed, kill_at

DATA = "people/span-1/train/people.csv"
BLOCK = (
    "silo_privacy: {{sampling_probability: 0.2, local_steps: 2, noise_multiplier: 1.0, delta: 1.0e-3, "
    "clipping_norm: 0.5, silos: {silos}}}\n"
)
CHANGES = {
    "rounds: 6": "  clients: {column: town}\nmodel: {hidden_units: []}\nrounds: 3",
    "clients_per_round: 10": "clients_per_round: 3",
    "learning_rate: 5.0": "learning_rate: 0.5",
    "seeds: [1, 2]": "seeds: [1]",
}
ROWS = {"{key: who, contribution_bound: 4}": "row"}


def everyone_in_one_town(folder: Path) -> None:
    """Gives each person one town, so that silos share nobody."""
    for split in ("train", "eval"):
        path = folder / DATA.replace("train", split)
        table = pd.read_csv(path)
        table["town"] = table["who"] % 3 + 1
        table.to_csv(path, index=False)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    write_people(tmp_path)
    everyone_in_one_town(tmp_path)
    return tmp_path


def counted(folder: Path, *, rows: bool = False) -> dict[str, int]:
    table = pd.read_csv(folder / DATA)
    found = table.groupby("town")["who"].agg("size" if rows else "nunique")
    return {str(town): int(number) for town, number in found.items()}


def written(folder: Path, silos: dict[str, int] | None = None, **replaced: str) -> Path:
    rows = "{key: who, contribution_bound: 4}" in replaced
    block = BLOCK.format(silos=json.dumps(silos or counted(folder, rows=rows)))
    for old in [key for key in replaced if key in block]:
        block = block.replace(old, replaced.pop(old))
    return write_experiment(folder, block, **{**CHANGES, **replaced})


def point_of(folder: Path, silos: dict[str, int] | None = None, **replaced: str) -> Point:
    return load_bound(written(folder, silos, **replaced))[0]


def call(*arguments: object) -> tuple[int, Any]:
    result = CliRunner().invoke(app, ["federated", *map(str, arguments)])
    return result.exit_code, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("replaced", [pytest.param({}, marks=pytest.mark.slow), ROWS], ids=["persons", "rows"])
def test_a_run_is_charged_as_dp_sgd_and_recorded(people: Path, replaced: dict[str, str]) -> None:
    point, unit = point_of(people, **replaced), "row" if replaced else "who"
    register_clients(point.config, epsilon=50, delta=1e-3)
    point = point_of(people, **replaced)  # bound under the ledger's secret
    summary = run_point(point, build=build)
    record = PrivacyRecord.model_validate_json((point.folder / "privacy_record.json").read_text())
    assert record.mechanism is not None and record.guarantee is not None and record.composition is not None
    units = sum(counted(people, rows=bool(replaced)).values())
    central = PrivacyPlan.calibrated(
        units=1000, expected_batch_size=200, steps=6, noise_multiplier=1.0, delta=1e-3, clipping_norm=0.5
    )
    event = events.from_json(record.mechanism.dp_event)
    assert event == central.event
    again = epsilon_of(event, delta=1e-3, relation=Relation.ZERO_OUT)
    assert summary["epsilon"] == record.guarantee.epsilon == again == central.epsilon()
    assert (record.unit, record.mechanism.units, record.mechanism.steps) == (unit, units, 6)
    whose = "one row of people" if replaced else "all rows of people that share one value of `who`"
    assert record.unit_in_words == f"{whose}, in the silo (`town`) that holds them"
    assert "one silo" in record.assumptions[0].name and all(part.held for part in record.assumptions)
    accesses = {access.what: access for access in record.data_accesses}
    assert "no secure aggregation" in accesses["models that leave a silo"].detail
    assert not accesses["which silo a unit is in, and how many each holds"].covered
    assert not accesses["evaluation"].covered
    (entry,) = Ledger.open(point.config.ledger).entries("people")
    assert entry.state is State.COMMITTED and entry.id == record.composition.ledger_entry
    lines = RunFolder(point.folder).rounds()
    assert all(set(line) <= {"round", "bytes_up", "bytes_down", "eval", "epsilon"} for line in lines)
    assert [line["epsilon"] for line in lines if "epsilon" in line][-1] == pytest.approx(summary["epsilon"])


@pytest.mark.slow
def test_a_killed_run_goes_on_under_its_charge(people: Path) -> None:
    point = point_of(people)
    register_clients(point.config, epsilon=50, delta=1e-3)
    point = point_of(people)
    with pytest.raises(Killed):
        run_point(point, build=build, report=kill_at(2))
    run_point(point, build=build)
    states = [entry.state for entry in Ledger.open(point.config.ledger).entries("people")]
    assert states == [State.COMMITTED]


def test_nothing_is_read_where_the_ledger_refuses(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("data was read")

    monkeypatch.setattr(run, "load_silos", touched)
    monkeypatch.setattr(run, "load_clients", touched)
    point = point_of(people)
    assert silos.charged(point.config, units=60).plan.rounds == 3
    with pytest.raises(BadInputError, match="ledger"):
        run_point(point, build=build)


def test_registering_tells_the_numbers_of_the_silos(people: Path) -> None:
    path = written(people, {"1": 5, "2": 5, "3": 5})
    code, text = call("register", path, "--epsilon", 20, "--delta", 1e-3, "--json")
    found = json.loads(text)
    assert code == 2 and "not the numbers of units in the train split" in found["error"]
    numbers = ", ".join(f'"{town}": {units}' for town, units in sorted(counted(people).items()))
    assert found["fix"] == "silos: {" + numbers + "}"
    assert call("register", written(people), "--epsilon", 20, "--delta", 1e-3)[0] == 0
    path = written(people, {"1": 5, "2": 5, "3": 5})  # other numbers than registered
    code, text = call("run", path, "--json")
    assert code == 2 and "hold 15 units together, and 60 are registered" in json.loads(text)[0]["error"]


def shift(counts: dict[str, int]) -> dict[str, int]:
    """The same sum, other silos."""
    return {**counts, "1": counts["1"] + 1, "2": counts["2"] - 1}


def rename(counts: dict[str, int]) -> dict[str, int]:
    return {"9" if town == "1" else town: units for town, units in counts.items()}


@pytest.mark.parametrize("other", [shift, rename])
def test_other_silos_than_planned_are_refused_and_cost_nothing(people: Path, other: Callable[[Any], Any]) -> None:
    right = point_of(people)
    register_clients(right.config, epsilon=50, delta=1e-3)
    wrong = point_of(people, other(counted(people)))
    with pytest.raises(PipelineError, match=r"silo .1. holds .*, and the plan was made for \d+$"):
        run_point(wrong, build=build)
    assert [entry.state for entry in Ledger.open(wrong.config.ledger).entries("people")] == [State.EXPIRED]
    assert not (wrong.folder / "privacy_record.json").exists()


def test_a_person_in_two_silos_is_refused(people: Path) -> None:
    table = pd.read_csv(people / DATA)
    twice = table[table["who"] == 3].head(1).assign(town=2)
    pd.concat([table, twice]).to_csv(people / DATA, index=False)
    path = written(people)
    code, text = call("register", path, "--epsilon", 20, "--delta", 1e-3, "--json")
    assert code == 2 and "'who' 3 has rows in the silos 1 and 2 ('town')" in json.loads(text)["error"]


def test_a_row_without_a_silo_is_refused(people: Path) -> None:
    text = (people / DATA).read_text().splitlines()
    cells = text[3].split(",")
    text[3] = ",".join([*cells[:3], "", cells[4]])
    (people / DATA).write_text("\n".join(text) + "\n")
    code, told = call(
        "register", written(people, {"1": 20, "2": 20, "3": 20}), "--epsilon", 9, "--delta", 1e-3, "--json"
    )
    assert code == 2 and "people.csv:4: 'town' is empty: the row has no silo" in json.loads(told)["error"]


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"clients_per_round: 10": "clients_per_round: 2"}, "set `clients_per_round` to 3"),
        ({"clipping_norm: 0.5": "clipping_norm: 0"}, "clipping_norm: must be greater than 0"),
        ({"sampling_probability: 0.2": "sampling_probability: 1.2"}, "sampling_probability: must be"),
        ({"noise_multiplier: 1.0, ": ""}, "give exactly one of `target_epsilon` and `noise_multiplier`"),
        ({"algorithm:\n": "algorithm:\n  name: fedsgd\n"}, "`fedavg`|no local steps"),
        ({"algorithm:\n": "algorithm:\n  engine: tff\n"}, "drop `engine: tff`"),
        ({"algorithm:\n": "algorithm:\n  batch_size: 8\n"}, "`batch_size` does nothing in `silo_privacy`"),
        ({"algorithm:\n": "algorithm:\n  local_epochs: 2\n"}, "`local_epochs` does nothing in `silo_privacy`"),
        (
            {"rounds: 6": "privacy: {noise_multiplier: 1.0, delta: 1.0e-3, clipping_norm: 0.5}\nrounds: 6"},
            "give one of the two|needs `data.clients|must be the dataset's privacy unit",
        ),
        ({"rounds: 6": "  clients: {column: who}\nrounds: 6"}, "name the silo's column"),
        ({"rounds: 6": "  clients: {rule: iid, clients: 3}\nrounds: 6"}, "needs `data.clients: {column: COLUMN}`"),
    ],
)
def test_impossible_settings_are_one_clear_error(people: Path, replaced: dict[str, str], message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        point_of(people, **replaced)
    assert "\n" not in caught.value.message


def test_an_empty_silo_is_refused(people: Path) -> None:
    with pytest.raises(BadInputError, match=r"silo_privacy.silos.4: must be at least 1"):
        point_of(people, {**counted(people), "4": 0})


@pytest.mark.slow
def test_the_engine_of_silos_is_built_for_the_settings(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs is what was charged: the engine gets the reserved plan itself."""
    seen: list[Any] = []
    real = engines.build_silos

    def building(config: Any, records: Any, plan: Any, key: Any, **more: Any) -> Any:
        seen.append(plan)
        assert not key.seed_fixed
        return real(config, records, plan, key, **more)

    monkeypatch.setattr(engines, "build_silos", building)
    point = point_of(people)
    register_clients(point.config, epsilon=50, delta=1e-3)
    run_point(point_of(people), build=build)
    assert seen == [silos.charged(point.config, units=60).plan]
