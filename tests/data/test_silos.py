"""Units of each silo, counted before the data is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.data.counting.silos import count_silos
from privacy_pipeline.data.schema.unit_keys import split_of
from privacy_pipeline.data.source import resolve
from privacy_pipeline.errors import BadInputError
from tests.data.samples import dataset

KEYED = {"privacy_unit": {"key": "id"}}


def counted(folder: Path, train: str, **options: Any) -> dict[str, int] | None:
    for split in ("train", "eval"):
        path = folder / split / "rows.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(train)
    whole = "hash_split" in options
    given = {"input": "train/*.csv" if whole else {"train": "train/*.csv", "eval": "eval/*.csv"}, **options}
    section = dataset(folder, **given)
    return count_silos(source=resolve(dataset=section), dataset=section, column="site")


def test_rows_are_counted_by_silo(tmp_path: Path) -> None:
    assert counted(tmp_path, "id,site,y\n1,b,0\n1,a,0\n2,b,1\n") == {"a": 1, "b": 2}


def test_whole_numbers_have_one_name(tmp_path: Path) -> None:
    assert counted(tmp_path, "id,site,y\n1,07,0\n1,7,0\n2,8,1\n") == {"7": 2, "8": 1}
    assert counted(tmp_path, "id,site,y\n1,07,0\n1,7,0\n2,x,1\n") == {"07": 1, "7": 1, "x": 1}


def test_a_persons_rows_count_once(tmp_path: Path) -> None:
    assert counted(tmp_path, "id,site,y\n1,a,0\n1,a,0\n2,a,1\n3,b,1\n", **KEYED) == {"a": 2, "b": 1}


def test_a_person_in_two_silos_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"'id' 0?1 has rows in the silos [ab] and [ab] \('site'\)"):
        counted(tmp_path, "id,site,y\n1,a,0\n2,a,1\n01,b,0\n", **KEYED)


def test_a_hash_split_leaves_out_the_others(tmp_path: Path) -> None:
    buckets = {"train": 1, "eval": 1}
    rows = [(number, "ab"[number % 2]) for number in range(40)]
    text = "id,site,y\n" + "".join(f"{number},{site},0\n" for number, site in rows)
    expected = {
        site: sum(own == site and split_of(value=number, buckets=buckets) == "train" for number, own in rows)
        for site in "ab"
    }
    assert counted(tmp_path, text, hash_split=buckets, **KEYED) == expected
    assert counted(tmp_path, text, hash_split=buckets) is None  # the hash of a whole row is known to ExampleGen alone


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,site,y\n1,a,0\n2,,1\n", r"rows.csv:3: 'site' is empty: the row has no silo"),
        ("id,site,y\n1,a,0\n,a,1\n", r"rows.csv:3: 'id' is empty: the row has no privacy unit"),
        ("id,place,y\n1,a,0\n", r"column 'site' is missing"),
        ("id,site,y\n1,a\n", r"rows.csv:2: the row has 2 fields, the header has 3"),
    ],
)
def test_bad_rows_are_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        counted(tmp_path, text, **KEYED)
