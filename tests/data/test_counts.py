"""Counts before a run are those that TFX's ExampleGen arrives at."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest

from privacy_pipeline.data.reading.tfrecord import count_records, masked_crc32c
from privacy_pipeline.data.schema.unit_keys import partition_bytes, split_of
from privacy_pipeline.data.source import NeedsExampleGen, SplitCount, count_units, resolve
from privacy_pipeline.errors import BadInputError
from tests.data.samples import dataset, put

SPLIT = {"input": {"train": "train/*", "eval": "eval/*"}}
HASHED = {"input": "*.csv", "hash_split": {"train": 2, "eval": 1}}
KEYED = {"privacy_unit": {"key": "id", "contribution_bound": 2}}


def counts(tmp_path: Path, **changes: object) -> dict[str, SplitCount]:
    section = dataset(tmp_path, **changes)
    return count_units(source=resolve(dataset=section), dataset=section)


def test_rows_are_units(tmp_path: Path) -> None:
    put(tmp_path / "train/a.csv", 'x,y\n1,"two\nlines"\n\n2,0\n')
    put(tmp_path / "train/b.csv", "x,y\n3,0")
    put(tmp_path / "eval/a.csv", "x,y\r\n4,0\r\n")
    assert counts(tmp_path, **SPLIT) == {"train": SplitCount(rows=3, units=3), "eval": SplitCount(rows=1, units=1)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,0\n1,2,3\n", "a.csv:3: the row has 3 fields, the header has 2"),
        ('x,y\n1,0\n1,5" pipe\n2,0\n', r'a.csv:3: the quotes \("\) in this row are not balanced'),
        (b"x,y\n1,\xff\n", "a.csv:2: the row is not UTF-8 text"),
        (b"x,y\n1,0\n1,\x00\n", "a.csv:3: not valid CSV"),
        ("x,y\n", "split 'train' has no rows"),
    ],
)
def test_unreadable_rows(tmp_path: Path, text: str | bytes, message: str) -> None:
    put(tmp_path / "train/a.csv", text)
    put(tmp_path / "eval/a.csv")
    with pytest.raises(BadInputError, match=message):
        counts(tmp_path, **SPLIT)


def test_keys_are_distinct_units(tmp_path: Path) -> None:
    put(tmp_path / "train/a.csv", "id,y\n1,0\n01,0\n 2,0\n")
    put(tmp_path / "eval/a.csv", "id,y\nx,0\n07,0\n007,1\n")
    # As TFX types them: all integers in train, so 1 and 01 are one; texts in eval, so 07 and 007 are two.
    assert counts(tmp_path, **SPLIT, **KEYED) == {
        "train": SplitCount(rows=3, units=2),
        "eval": SplitCount(rows=3, units=3),
    }


def test_unit_on_both_sides_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "train/a.csv", "id,y\n1,0\n2,0\n")
    put(tmp_path / "eval/a.csv", "id,y\nx,0\n01,0\n")
    with pytest.raises(BadInputError, match=r"1 units \('id'\) have rows in both train and eval"):
        counts(tmp_path, **SPLIT, **KEYED)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,y\n1,0\n,0\n", "a.csv:3: 'id' is empty"),
        ("x,y\n1,0\n", "column 'id' is missing"),
        ("id,y\n1,0\n3e4,0\n", "as floating point, because all its values look like numbers and one is '3e4'"),
    ],
)
def test_bad_keys(tmp_path: Path, text: str, message: str) -> None:
    put(tmp_path / "a.csv", text)
    with pytest.raises(BadInputError, match=message):
        counts(tmp_path, **HASHED, **KEYED)


def test_hash_split_by_key_covers_all_rows(tmp_path: Path) -> None:
    put(tmp_path / "a.csv", "id,y\n" + "".join(f"u{i % 300},0\n" for i in range(900)))
    found = counts(tmp_path, **HASHED, **KEYED)
    assert found["train"].units + found["eval"].units == 300
    assert found["train"].rows == 3 * found["train"].units
    assert 160 < found["train"].units < 240


def test_what_only_example_gen_knows(tmp_path: Path) -> None:
    put(tmp_path / "a.csv")
    with pytest.raises(NeedsExampleGen):
        counts(tmp_path, **HASHED)


def test_partition_bytes_are_the_wire_format() -> None:
    assert partition_bytes(value="ab") == b"\x0a\x04\x0a\x02ab"
    assert partition_bytes(value=300) == b"\x1a\x04\x0a\x02\xac\x02"
    assert partition_bytes(value=-1) == b"\x1a\x0c\x0a\x0a" + b"\xff" * 9 + b"\x01"


@pytest.mark.slow
def test_partition_is_that_of_example_gen() -> None:
    tf = pytest.importorskip("tensorflow")
    executor = pytest.importorskip("tfx.components.example_gen.base_example_gen_executor")
    from tfx.proto import example_gen_pb2

    config = example_gen_pb2.SplitConfig(partition_feature_name="id")
    keys: list[int | str] = [0, 1, -1, 127, 128, 2**63 - 1, -(2**63), "", "a", "é", "x" * 200, *range(500, 700)]
    for key in keys:
        feature = (
            tf.train.Feature(int64_list=tf.train.Int64List(value=[key]))
            if isinstance(key, int)
            else tf.train.Feature(bytes_list=tf.train.BytesList(value=[key.encode()]))
        )
        example = tf.train.Example(features=tf.train.Features(feature={"id": feature}))
        assert partition_bytes(value=key) == feature.SerializeToString(deterministic=True)
        split = executor._PartitionFn(example, 2, [4, 5], config)
        assert split_of(value=key, buckets={"train": 4, "eval": 1}) == ("train", "eval")[split]


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


def test_crc_is_castagnoli() -> None:
    unmasked = (masked_crc32c(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert (unmasked << 15 | unmasked >> 17) & 0xFFFFFFFF == 0xE3069283


def test_tfrecords_are_counted_by_framing(tmp_path: Path) -> None:
    content = record(b"a") + record(b"") + record(b"b" * (1 << 21))
    put(tmp_path / "train/a.tfrecord", content)
    put(tmp_path / "eval/a.gz", gzip.compress(record(b"a") + record(b"")))
    found = counts(tmp_path, **SPLIT, format="tfrecord")
    assert {split: count.rows for split, count in found.items()} == {"train": 3, "eval": 2}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a", record(b"abc")[:-1], "a: record 1 is cut off"),
        ("a", record(b"abc") + b"123", "a: record 2 is cut off"),
        ("a", b"x,y\n1,2\n3,4\n5,6\n", "a: record 1 is corrupt"),
        ("a", gzip.compress(record(b"abc"), mtime=0), "a: record 1 is corrupt"),
        ("a.gz", record(b"abc"), "a.gz: is not a valid gzip file"),
        ("a.gz", gzip.compress(record(b"abc" * 1000), mtime=0)[:-12], "a.gz: the gzip file is cut off"),
    ],
)
def test_corrupt_tfrecords(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        count_records(file=put(tmp_path / name, content))


@pytest.mark.slow
def test_records_that_tensorflow_writes(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    for options, name in ((None, "a"), ("GZIP", "a.gz")):
        with tf.io.TFRecordWriter(str(tmp_path / name), options) as writer:
            for size in (0, 1, 70_000):
                writer.write(b"r" * size)
        assert count_records(file=tmp_path / name) == 3
