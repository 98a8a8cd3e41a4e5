"""Keys inside TFRecord files are counted, divided and compared as those of CSV files."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_pipeline.config.models.dataset import DatasetConfig
from privacy_pipeline.data.counting.row_digests import RowHasher
from privacy_pipeline.data.reading.example_keys import KeyProblem, key_of
from privacy_pipeline.data.schema.unit_keys import partition_bytes, split_of
from privacy_pipeline.data.source import SplitCount, count_units, read_contents, resolve, unit_keys
from privacy_pipeline.errors import BadInputError
from tests.data.samples import dataset, put
from tests.data.test_counts import HASHED, KEYED, SPLIT, record


def part(number: int, content: bytes) -> bytes:
    """A length-delimited field of less than 16,384 bytes."""
    size = len(content)
    return bytes([number << 3 | 2, *([size] if size < 128 else [size & 0x7F | 0x80, size >> 7])]) + content


def example(**features: bytes) -> bytes:
    entries = [part(1, part(1, name.encode()) + part(2, feature)) for name, feature in features.items()]
    return part(1, b"".join(entries))


def row(value: int | str, **more: bytes) -> bytes:
    return example(x=partition_bytes(value=7), id=partition_bytes(value=value), **more)


def section(tmp_path: Path, **changes: object) -> DatasetConfig:
    return dataset(tmp_path, format="tfrecord", **{**SPLIT, **KEYED, **changes})


def write(tmp_path: Path, name: str, *rows: bytes) -> None:
    put(tmp_path / name, b"".join(map(record, rows)))


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(st.characters(blacklist_categories=["Cs"]), min_size=1)))
def test_a_key_is_read_as_it_was_written(value: int | str) -> None:
    assert key_of(row(value), "id") == value


class TestCells:
    def test_an_example_is_the_row_that_it_was_made_of(self) -> None:
        """CSV has no types, leaves cells empty and orders columns; Examples hold decimals in 32 bits."""
        hasher = RowHasher(bytes(range(32)))
        rows = [["7", "Ann", "0.1", ""], ["-3", "", "1e-3", "x"]]
        decimals = [part(2, part(1, struct.pack("<f", value))) for value in (0.1, 0.001)]
        examples = [
            example(decimal=decimals[0], name=partition_bytes(value="Ann"), number=partition_bytes(value=7), empty=b""),
            example(number=partition_bytes(value=-3), other=partition_bytes(value="x"), decimal=decimals[1]),
        ]
        assert hasher.records(examples).tolist() == hasher.rows(rows).tolist()

    def test_another_row_and_what_is_no_example(self) -> None:
        hasher = RowHasher(bytes(range(32)))
        some = [row(1), row(2), row(2, y=partition_bytes(value="")), row(2, y=b""), b"\x08\x01", b"\x08\x02"]
        assert len(set(hasher.records(some).tolist())) == 4
        assert hasher.records([row(1)]).item() == hasher.records(some)[0] == hasher.rows([["1", "7"]]).item()


def test_numbers_may_be_unpacked_and_the_last_entry_counts() -> None:
    unpacked = part(3, b"\x08\xac\x02")
    assert key_of(example(id=unpacked), "id") == 300
    assert key_of(example(id=unpacked) + row("b"), "id") == "b"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (example(x=partition_bytes(value=1)), "has no 'id'"),
        (b"", "has no 'id'"),
        (example(id=b""), "has 0 values"),
        (example(id=part(3, part(1, b"\x01\x02"))), "has 2 values"),
        (example(id=part(1, part(1, b""))), "has an empty 'id'"),
        (example(id=part(1, part(1, b"\xff"))), "has a 'id' that is not UTF-8"),
        (example(id=part(2, part(1, b"\0\0\0\0"))), "has a 'id' of floating point"),
        (row(1)[:-1], "is not a tf.train.Example"),
        (b"\x08\x01", "is not a tf.train.Example"),
        (b"\xff" * 20, "is not a tf.train.Example"),
    ],
)
def test_a_record_without_a_key(tmp_path: Path, content: bytes, problem: str) -> None:
    with pytest.raises(KeyProblem, match=problem):
        key_of(content, "id")
    write(tmp_path, "train/a", row(1), content)
    write(tmp_path, "eval/a", row(2))
    with pytest.raises(BadInputError, match=f"a: record 2 {problem}"):
        count_units(source=resolve(dataset=section(tmp_path)), dataset=section(tmp_path))


def test_units_are_the_different_keys_not_the_rows(tmp_path: Path) -> None:
    write(tmp_path, "train/a", *(row(number // 3) for number in range(9)))
    write(tmp_path, "eval/a", row(7), row(7))
    given = section(tmp_path)
    contents = read_contents(source=resolve(dataset=given), dataset=given, hasher=RowHasher(bytes(32)))
    assert contents.counts == {"train": SplitCount(rows=9, units=3), "eval": SplitCount(rows=2, units=1)}
    assert contents.keys is not None and list(contents.keys["train"]) == ["0", "1", "2"]
    assert {split: len(rows) for split, rows in contents.rows.items()} == {"train": 9, "eval": 2}
    again = unit_keys(source=resolve(dataset=given), dataset=given)
    assert again is not None and list(again["eval"]) == ["7"]


def test_texts_stay_texts(tmp_path: Path) -> None:
    """ExampleGen does not guess their type, as it does in CSV files: 7 and 07 are two keys, and 1.5 is one."""
    write(tmp_path, "train/a", row("7"), row("07"), row("1.5"))
    write(tmp_path, "eval/a", row("8"))
    given = section(tmp_path)
    assert count_units(source=resolve(dataset=given), dataset=given)["train"].units == 3


@pytest.mark.parametrize("kind", [int, str])
def test_a_hash_divides_them_as_example_gen_does(tmp_path: Path, kind: type) -> None:
    write(tmp_path, "a.csv", *(row(kind(number)) for number in range(60)))
    given = section(tmp_path, **HASHED)
    found = unit_keys(source=resolve(dataset=given), dataset=given)
    assert found is not None and sum(map(len, found.values())) == 60
    for split, keys in found.items():
        assert keys and all(split_of(value=kind(key), buckets={"train": 2, "eval": 1}) == split for key in keys)


def test_a_unit_on_both_sides_and_keys_of_two_types_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "train/a", row(1), row(2))
    write(tmp_path, "eval/a", row("1"))
    with pytest.raises(BadInputError, match="both train and eval"):
        count_units(source=resolve(dataset=section(tmp_path)), dataset=section(tmp_path))
    write(tmp_path, "train/a", row(1), row("b"))
    with pytest.raises(BadInputError, match="an integer in some records and a text in others"):
        count_units(source=resolve(dataset=section(tmp_path)), dataset=section(tmp_path))


@pytest.mark.slow
def test_examples_that_tensorflow_writes() -> None:
    tf = pytest.importorskip("tensorflow")
    for value in (0, -1, 2**63 - 1, "é", "x" * 300):
        ints = tf.train.Int64List(value=[value] if isinstance(value, int) else [])
        texts = tf.train.BytesList(value=[] if isinstance(value, int) else [value.encode()])
        feature = tf.train.Feature(**({"int64_list": ints} if isinstance(value, int) else {"bytes_list": texts}))
        more = {"a": tf.train.Feature(float_list=tf.train.FloatList(value=[1.0] * 50)), "id": feature}
        made = tf.train.Example(features=tf.train.Features(feature=more)).SerializeToString()
        assert key_of(made, "id") == value
