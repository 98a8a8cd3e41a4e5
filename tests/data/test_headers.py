"""Header mistakes are named before a pipeline starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy_pipeline.data.source import ResolvedSource, check_headers, resolve
from privacy_pipeline.errors import BadInputError
from tests.data.samples import dataset, put


def check(
    tmp_path: Path, train: str | bytes, *, more: str | None = None, unit_key: str | None = None
) -> ResolvedSource:
    """Return the source whose headers were checked."""
    put(tmp_path / "span-1/train/a.csv", train)
    if more is not None:
        put(tmp_path / "span-1/train/b.csv", more)
    put(tmp_path / "span-1/eval/a.csv", "age,y\n1,0\n")
    section = dataset(tmp_path)
    source = resolve(dataset=section)
    check_headers(source=source, dataset=section, columns=["age"], label="y", unit_key=unit_key)
    return source


def test_good_headers_pass(tmp_path: Path) -> None:
    source = check(tmp_path, "age,y\r\n1,0\r\n", more="age,y\n")
    assert [path.name for path in source.files["train"]] == ["a.csv", "b.csv"]


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        (
            "y,ages\n0,1\n",
            "column 'age' is missing (the schema has it)",
            "the header has 'ages': rename one of the two",
        ),
        ("age\n1\n", "column 'y' is missing (it is dataset.label)", "the header has: age"),
        ('"age",y\n1,0\n', "column 'age' is missing", "the header has '\"age\"': remove the quotes"),
        ("y, age\n1,0\n", "column 'age' is missing", "the header has ' age': remove the quotes and blanks"),
        (b"\xef\xbb\xbfage,y\n1,0\n", "column 'age' is missing", "save the file without a byte-order mark"),
        ("age;y\n1;0\n", "column 'age' is missing", "separate the columns by commas"),
        ("age,age,y\n1,1,0\n", "column 'age' is named twice in the header", "rename one of the two"),
        (b"\x1f\x8b\x08\xff\n", "the header is not UTF-8 text", "save the file as plain"),
        ("age,y\n\n \n", "'span-1/train/*' (train) has no rows after the header", "add rows"),
    ],
)
def test_mistakes(tmp_path: Path, text: str | bytes, message: str, fix: str) -> None:
    with pytest.raises(BadInputError) as caught:
        check(tmp_path, text)
    assert message in caught.value.message
    assert caught.value.fix.startswith(fix)


def test_files_of_a_split_agree(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"b.csv: the header differs from that of .*a.csv"):
        check(tmp_path, "age,y\n1,0\n", more="y,age\n1,0\n")


def test_unit_key_is_needed(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"column 'id' is missing \(it is dataset.privacy_unit.key\)"):
        check(tmp_path, "age,y\n1,0\n", unit_key="id")
