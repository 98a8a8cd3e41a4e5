"""Cells that break the schema are named by file, line and column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from privacy_pipeline.data.counting.cells import bad_inputs
from privacy_pipeline.data.schema.encoder import as_single
from privacy_pipeline.data.schema.features import Column, FeaturePlan
from privacy_pipeline.data.source import locate, resolve
from tests.data.samples import dataset, put

PLAN = FeaturePlan(
    columns=(
        Column(name="age", kind="numeric", dtype="int", minimum=0, maximum=90),
        Column(name="w", kind="numeric", dtype="float", minimum=0.10000000149011612, maximum=1, optional=True),
        Column(name="c", kind="categorical", dtype="bytes", domain=("a", "b")),
        Column(name="k", kind="categorical", dtype="int", domain=("1", "2"), optional=True),
    ),
    label="y",
    label_domain=("0", "1"),
    label_dtype="int",
    positive_class="1",
    unit_key="id",
    unit_key_dtype="int",
)
HEAD = "id,age,w,c,k,y,other\n"
GOOD = "7,30,0.1,a,01,0,anything\n"
SPLIT = {"input": {"train": "train/*", "eval": "eval/*"}}


def bad(tmp_path: Path, text: str | bytes, limit: int = 5) -> list[tuple[int, str, str]]:
    put(tmp_path / "train/a.csv", HEAD.encode() + (text if isinstance(text, bytes) else text.encode()))
    put(tmp_path / "eval/a.csv", HEAD + GOOD)
    section = dataset(tmp_path, **SPLIT)
    cells = locate(source=resolve(dataset=section), dataset=section, features=PLAN, limit=limit)
    assert all(cell.file == tmp_path / "train/a.csv" for cell in cells)
    return [(cell.line, cell.column, cell.why) for cell in cells]


@pytest.mark.parametrize(
    ("row", "column", "why"),
    [
        ("7,abc,,a,,0,\n", "age", "'abc' is not an integer"),
        ("7,3.0,,a,,0,\n", "age", "'3.0' is not an integer"),
        ("7,,,a,,0,\n", "age", "the value is missing"),
        ("7,91,,a,,0,\n", "age", "'91' is above the schema's maximum 90"),
        ("7,-1,,a,,0,\n", "age", "'-1' is below the schema's minimum 0"),
        ("7,1,x,a,,0,\n", "w", "'x' is not a number"),
        ("7,nan,,a,,0,\n", "age", "'nan' is not an integer"),
        ("7,99999999999999999999,,a,,0,\n", "age", "'99999999999999999999' is not an integer of 64 bits"),
        ("7,1,-inf,a,,0,\n", "w", "'-inf' is not a finite number"),
        ("7,1,1e60,a,,0,\n", "w", "'1e60' is not a finite number"),
        ("7,1,,d,,0,\n", "c", "'d' is not in the schema's domain"),
        ("7,1,," + "d" * 60 + ",,0,\n", "c", "'" + "d" * 37 + "...' is not in the schema's domain"),
        ("7,1,,a,3,0,\n", "k", "'3' is not in the schema's domain"),
        ("7,1,,a,x,0,\n", "k", "'x' is not an integer"),
        ("7,1,,a,,2,\n", "y", "'2' is not in the schema's domain"),
        ("7,1,,a,,,\n", "y", "the value is missing"),
        (",1,,a,,0,\n", "id", "the row has no privacy unit"),
        ("u7,1,,a,,0,\n", "id", "'u7' is not an integer"),
        ("7,1,,a\n", "", "the row has 4 fields, the header has 7"),
        (b"7,1,,a,,0,\xff\n", "other", "holds bytes that are not UTF-8"),
        ('7,1,,a,,0,5" pipe\n', "", 'the quotes (") in this row are not balanced'),
    ],
)
def test_each_kind_of_mistake(tmp_path: Path, row: str | bytes, column: str, why: str) -> None:
    raw = row if isinstance(row, bytes) else row.encode()
    assert bad(tmp_path, GOOD.encode() + b"\n" + raw) == [(4, column, why)]


def test_lines_count_newlines_in_quotes(tmp_path: Path) -> None:
    quoted = '7,30,0.1,a,1,0,"two\nlines"\n'
    assert bad(tmp_path, quoted + "7,x,,a,,0,\n") == [(4, "age", "'x' is not an integer")]


def test_limit(tmp_path: Path) -> None:
    assert len(bad(tmp_path, "7,x,,a,,0,\n" * 9)) == 5
    assert len(bad(tmp_path, "7,x,,a,,0,\n" * 9, limit=2)) == 2


def test_nan_is_a_missing_value(tmp_path: Path) -> None:
    assert bad(tmp_path, "7,1,NaN,a,,0,\n") == []
    required = PLAN.model_copy(update={"columns": (PLAN.columns[1].model_copy(update={"optional": False}),)})
    (cell,) = bad_inputs(file=tmp_path / "train/a.csv", columns=required.columns)
    assert (cell.line, cell.why) == (2, "the value is missing ('NaN' is a missing value)")


def test_good_rows_and_tfrecords_give_nothing(tmp_path: Path) -> None:
    assert bad(tmp_path, GOOD) == []
    section = dataset(tmp_path, **SPLIT, format="tfrecord")
    assert locate(source=resolve(dataset=section), dataset=section, features=PLAN) == []


def test_numbers_are_kept_as_numpys_32_bits_are() -> None:
    random = np.random.default_rng(1)
    edges = [3.4028235e38, 3.4028235677973366e38, 3.4028236e38, 1e39, -1e39, 1e-45, 7e-46, 0.0, -0.0, 16777217.0]
    drawn = random.normal(size=2_000) * 10.0 ** random.integers(-50, 45, 2_000)
    with np.errstate(over="ignore"):
        for value in (*edges, *drawn.tolist()):
            found = as_single(repr(value))
            assert found is not None and repr(found) == repr(float(np.float32(value)))
    assert np.isnan(as_single("nan")) and as_single("-inf") == -np.inf and as_single("x") is None
