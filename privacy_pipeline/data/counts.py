"""Counts rows and privacy units of each split before a run: the numbers that a dataset is registered with."""

from __future__ import annotations

import bisect
import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.config.models import DatasetConfig, KeyedUnit
from privacy_pipeline.data.csv_rows import Row, read_header, rows
from privacy_pipeline.data.files import ALL, ResolvedSource
from privacy_pipeline.data.row_digests import RowHasher
from privacy_pipeline.data.tfrecord import count_records, records
from privacy_pipeline.errors import BadInputError, PipelineError

# Order of the buckets in ExampleGen's output config; another order would put other rows into each split.
SPLIT_ORDER: tuple[Literal["train"], Literal["eval"]] = ("train", "eval")

KeyType = Literal["int", "bytes"]
_INT64 = range(-(2**63), 2**63)


class NeedsExampleGen(PipelineError):  # noqa: N818 - says what is needed, not what is wrong
    """Only TFX's ExampleGen can tell which row goes to which split, or read the key."""


@dataclass(frozen=True, kw_only=True)
class SplitCount:
    """Rows of a split, and how many privacy units own them."""

    rows: int
    units: int


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What one reading of the files tells.

    Attributes:
        counts: rows and units of each split; None where only ExampleGen can tell (`NeedsExampleGen`).
        keys: keys of the privacy units of each split, as texts; None where rows have none, or not here.
        rows: digests of the rows, by split, or all together by `ALL` where a hash divides them.
    """

    counts: dict[str, SplitCount] | None
    keys: dict[str, frozenset[str]] | None
    rows: dict[str, NDArray[np.uint64]]


def read_contents(*, source: ResolvedSource, dataset: DatasetConfig, hasher: RowHasher) -> Contents:
    """Reads the files once: counts, keys and digests of rows.

    Args:
        source: the files.
        dataset: the config's section.
        hasher: digests rows.

    Raises:
        BadInputError: a row cannot be read or lacks its key, a unit is in both splits, or a split has no rows.
    """
    key = dataset.privacy_unit.key if isinstance(dataset.privacy_unit, KeyedUnit) else None
    if dataset.format != "csv":
        found = {s: _records(files, hasher) for s, files in source.files.items()}
        counted = key is None and dataset.hash_split is None
        counts = {s: SplitCount(rows=len(rows), units=len(rows)) for s, rows in found.items()} if counted else None
        return Contents(counts=_checked(counts, dataset), keys=None, rows=found)
    read = {split: _read(files, key, hasher) for split, files in source.files.items()}
    rows = {split: one.digests for split, one in read.items()}
    if key is None:
        same = {split: SplitCount(rows=one.rows, units=one.rows) for split, one in read.items()}
        return Contents(counts=None if dataset.hash_split else _checked(same, dataset), keys=None, rows=rows)
    texts = {split: one.keys for split, one in read.items()}
    typed = _by_split(texts, dataset, key)
    units = _counted(typed)
    as_text = typed if dataset.hash_split is not None else texts
    keys = {split: frozenset(map(str, found)) for split, found in as_text.items()}
    return Contents(counts=_checked(units, dataset), keys=keys, rows=rows)


def row_digests(*, source: ResolvedSource, dataset: DatasetConfig, hasher: RowHasher) -> NDArray[np.uint64]:
    """Digests of all rows, whatever split they are in and whoever owns them, in the order of the files.

    Args:
        source: the files.
        dataset: the config's section.
        hasher: digests rows.

    Raises:
        BadInputError: a row cannot be read.
    """
    files = tuple(file for split in sorted(source.files) for file in source.files[split])
    return _read(files, None, hasher).digests if dataset.format == "csv" else _records(files, hasher)


def _checked(counts: dict[str, SplitCount] | None, dataset: DatasetConfig) -> dict[str, SplitCount] | None:
    for split, found in (counts or {}).items():
        if not found.rows:
            raise BadInputError(
                f"{dataset.path}: split '{split}' has no rows", fix="check dataset.input and hash_split"
            )
    return counts


def count_units(*, source: ResolvedSource, dataset: DatasetConfig) -> dict[str, SplitCount]:
    """Counts the rows and units of `train` and `eval`.

    Args:
        source: the files.
        dataset: the config's section.

    Raises:
        BadInputError: a row cannot be read or lacks its key, a unit is in both splits, or a split has no rows.
        NeedsExampleGen: rows are split by the hash of the whole example, or keys are inside TFRecord files.
    """
    if isinstance(dataset.privacy_unit, KeyedUnit):
        if dataset.format != "csv":
            raise NeedsExampleGen("the keys of a TFRecord dataset are known only after ExampleGen has read it")
        counts = _keyed(source, dataset, dataset.privacy_unit.key)
    else:
        if dataset.hash_split is not None:
            raise NeedsExampleGen("rows split by hash are counted only after ExampleGen has divided them")
        count = _count_rows if dataset.format == "csv" else count_records
        numbers = {split: sum(count(file=file) for file in files) for split, files in source.files.items()}
        counts = {split: SplitCount(rows=number, units=number) for split, number in numbers.items()}
    return _checked(counts, dataset) or {}


def unit_keys(*, source: ResolvedSource, dataset: DatasetConfig) -> dict[str, frozenset[str]] | None:
    """Keys of the privacy units of each split, as texts; None where rows have none, or not here.

    Args:
        source: the files.
        dataset: the config's section.

    Raises:
        BadInputError: a row cannot be read or lacks its key.
    """
    unit = dataset.privacy_unit
    if not isinstance(unit, KeyedUnit) or dataset.format != "csv":
        return None
    texts = {split: _count_keys(files, unit.key) for split, files in source.files.items()}
    if dataset.hash_split is None:
        return {split: frozenset(found) for split, found in texts.items()}
    divided = _divide(_typed(texts[ALL], unit.key, dataset.path), dataset.hash_split)
    return {split: frozenset(map(str, found)) for split, found in divided.items()}


def require_one_key_type(*, source: ResolvedSource, dataset: DatasetConfig) -> None:
    """Refuses several spans in which ExampleGen would read the key as integers in one and as texts in another.

    Together it reads texts then: `07` and `7` become two units, and a number's hash puts it into another split.

    Args:
        source: the files of several spans.
        dataset: the config's section.

    Raises:
        BadInputError: the types differ, or a row cannot be read or lacks its key.
    """
    unit = dataset.privacy_unit
    if not isinstance(unit, KeyedUnit) or dataset.format != "csv":
        return
    first: dict[str, tuple[int, bool]] = {}
    for span, part in source.parts.items():
        for split, files in part.files.items():
            integers = all(isinstance(key, int) for key in _typed(_count_keys(files, unit.key), unit.key, dataset.path))
            earlier, same = first.setdefault(split, (span, integers))
            if same != integers:
                kinds = ("texts", "integers") if integers else ("integers", "texts")
                raise BadInputError(
                    f"{dataset.path}: the keys '{unit.key}' are {kinds[0]} in span {earlier} and {kinds[1]} in span "
                    f"{span}: read together, ExampleGen would take them all for texts, and divide them otherwise",
                    fix="let the keys be of one kind in all spans, or read these spans one at a time",
                )


def partition_bytes(*, value: int | str) -> bytes:
    """The tf.train.Feature of one key, serialized: what ExampleGen hashes for `partition_feature_name`.

    Written out here (length-delimited protobuf fields) so that counting needs no TensorFlow.
    """
    if isinstance(value, int):
        packed = _varint(value % 2**64)
        return _field(3, _field(1, packed))  # Feature.int64_list { packed value }
    return _field(1, _field(1, value.encode("utf-8")))  # Feature.bytes_list { value }


def split_of(*, value: int | str, buckets: Mapping[Literal["train", "eval"], int]) -> str:
    """The split that ExampleGen puts a key into.

    Args:
        value: the key, an int where ExampleGen reads the column as int64.
        buckets: `hash_split` of the config.
    """
    limits = list(accumulate(buckets[split] for split in SPLIT_ORDER))
    bucket = int(hashlib.sha256(partition_bytes(value=value)).hexdigest(), 16) % limits[-1]
    return SPLIT_ORDER[bisect.bisect(limits, bucket)]


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _count_rows(*, file: Path) -> int:
    width = len(read_header(file=file))
    count = 0
    for row in rows(file=file):
        check_row(file, row, width)
        count += 1
    return count


def check_row(file: Path, row: Row, width: int) -> None:
    """Refuses a row that cannot be read as one of `width` texts."""
    if row.problem:
        raise BadInputError(f"{file}:{row.line}: {row.problem}", fix="correct the row")
    if not row.decodes:
        raise BadInputError(f"{file}:{row.line}: the row is not UTF-8 text", fix="save the file as UTF-8")
    if len(row.cells) != width:
        raise BadInputError(
            f"{file}:{row.line}: the row has {len(row.cells)} fields, the header has {width}",
            fix="quote values that hold commas",
        )


def _keyed(source: ResolvedSource, dataset: DatasetConfig, key: str) -> dict[str, SplitCount]:
    texts = {split: _count_keys(files, key) for split, files in source.files.items()}
    return _counted(_by_split(texts, dataset, key))


def _counted(typed: Mapping[str, Counter[int | str]]) -> dict[str, SplitCount]:
    return {split: SplitCount(rows=found.total(), units=len(found)) for split, found in typed.items()}


def _by_split(texts: Mapping[str, Counter[str]], dataset: DatasetConfig, key: str) -> dict[str, Counter[int | str]]:
    """Keys as ExampleGen types them, divided as it divides them."""
    typed = {split: _typed(found, key, dataset.path) for split, found in texts.items()}
    if dataset.hash_split is not None:
        return _divide(typed[ALL], dataset.hash_split)
    _refuse_overlap(texts, key)
    return typed


def _divide(keys: Counter[int | str], buckets: Mapping[Literal["train", "eval"], int]) -> dict[str, Counter[int | str]]:
    divided: dict[str, Counter[int | str]] = {split: Counter() for split in SPLIT_ORDER}
    for value, count in keys.items():
        divided[split_of(value=value, buckets=buckets)][value] = count
    return divided


@dataclass(frozen=True)
class _Split:
    """What the files of one split hold."""

    keys: Counter[str]
    rows: int
    digests: NDArray[np.uint64]


def _count_keys(files: tuple[Path, ...], key: str) -> Counter[str]:
    return _read(files, key, None).keys


def _read(files: tuple[Path, ...], key: str | None, hasher: RowHasher | None) -> _Split:
    found: Counter[str] = Counter()
    count, joined = 0, bytearray()
    for file in files:
        header = read_header(file=file)
        if key is not None and key not in header:
            raise BadInputError(f"{file}: column '{key}' is missing (it is dataset.privacy_unit.key)")
        index = None if key is None else header.index(key)
        for row in rows(file=file):
            check_row(file, row, len(header))
            count += 1
            if hasher is not None:
                joined += hasher.row(row.cells)
            if index is None:
                continue
            value = row.cells[index]
            if not value:
                raise BadInputError(
                    f"{file}:{row.line}: '{key}' is empty: the row has no privacy unit",
                    fix="give the row a key, or remove it",
                )
            found[value] += 1
    return _Split(found, count, _as_numbers(joined))


def _records(files: tuple[Path, ...], hasher: RowHasher) -> NDArray[np.uint64]:
    joined = bytearray()
    for file in files:
        for record in records(file=file):
            joined += hasher.record(record)
    return _as_numbers(joined)


def _as_numbers(joined: bytearray) -> NDArray[np.uint64]:
    return np.frombuffer(bytes(joined), ">u8").astype(np.uint64)


def as_int(text: str) -> int | None:
    """As TFX: what Python reads as an integer from ASCII and fits 64 bits."""
    try:
        value = int(text.encode("utf-8"))
    except ValueError:
        return None
    return value if value in _INT64 else None


def _typed(texts: Counter[str], key: str, folder: Path) -> Counter[int | str]:
    """Keys as ExampleGen types the column: int64 if all are integers, else bytes; 07 and 7 are one int, two texts."""
    integers = {text: value for text in texts if (value := as_int(text)) is not None}
    others = [text for text in texts if text not in integers]
    typed: Counter[int | str] = Counter()
    if not others:
        for text, value in integers.items():
            typed[value] += texts[text]
        return typed
    if all(_is_float(text) for text in others):
        raise BadInputError(
            f"{folder}: ExampleGen reads the key column '{key}' as floating point, because all its values look like "
            f"numbers and one is '{others[0]}'",
            fix="let the keys be integers, or start them with a letter",
        )
    typed.update(texts)
    return typed


def _is_float(text: str) -> bool:
    """As TFX: integers too large for 64 bits are texts, other numbers are floats."""
    try:
        int(text.encode("utf-8"))
    except ValueError:
        try:
            float(text.encode("utf-8"))
        except ValueError:
            return False
        return True
    return False


def _refuse_overlap(texts: Mapping[str, Counter[str]], key: str) -> None:
    # Compared as integers where they look like ones, whatever the type in each split: 07 and 7 may be one person.
    seen = [{text if (value := as_int(text)) is None else value for text in found} for found in texts.values()]
    shared = set.intersection(*seen)
    if shared:
        raise BadInputError(
            f"{len(shared)} units ('{key}') have rows in both train and eval: evaluation would see trained-on units",
            fix="move each unit's rows to one side, or use one `input` pattern with `hash_split`",
        )
