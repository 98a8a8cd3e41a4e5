"""Read the files of one split once: its rows, the keys of their units, and digests of the rows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.data.counting.row_digests import RowHasher
from privacy_pipeline.data.reading.csv_rows import read_header, rows
from privacy_pipeline.data.reading.csv_table import Cells, mapped
from privacy_pipeline.data.reading.example_keys import KeyProblem, key_of
from privacy_pipeline.data.reading.tfrecord import records
from privacy_pipeline.data.schema.unit_keys import KeyReader, Keys, UnitKeys, keys_of
from privacy_pipeline.errors import BadInputError

_RECORDS = 10_000  # that are held at once


@dataclass(frozen=True)
class SplitContents:
    """What the files of one split hold."""

    keys: UnitKeys
    rows: int
    digests: NDArray[np.uint64]


def read_split(files: tuple[Path, ...], key: str | None, hasher: RowHasher | None, format_: str) -> SplitContents:
    """Read files of one split.

    Args:
        files: in order.
        key: column of the units' keys; None where rows have none.
        hasher: digests rows; None where no digests are needed, and then one column is read.
        format_: `csv`, or another for TFRecord files.

    Raises:
        BadInputError: a row cannot be read, or lacks its key.
    """
    return (_read_csv if format_ == "csv" else _read_records)(files, key, hasher)


@dataclass(frozen=True)
class _Part:
    """What some records hold; `keys` is None where one of them lacks its key, or nobody asks."""

    rows: int
    keys: Keys | None
    digests: NDArray[np.uint64] | None


def _read_csv(files: tuple[Path, ...], key: str | None, hasher: RowHasher | None) -> SplitContents:
    keys = KeyReader()
    count, digests = 0, [np.empty(0, np.uint64)]
    for file in files:
        header = read_header(file=file)
        if key is not None and key not in header:
            raise BadInputError(f"{file}: column '{key}' is missing (it is dataset.privacy_unit.key)")
        columns = header if hasher is not None else header[:1] if key is None else [key]
        for part in mapped(partial(_part, key=key, hasher=hasher), file=file, columns=columns):
            count += part.rows
            if part.digests is not None:
                digests.append(part.digests)
            if key is not None:
                if part.keys is None:
                    raise _without_key(file, key, header.index(key))
                keys.add(part.keys)
    return SplitContents(keys.done(), count, np.concatenate(digests))


def _part(cells: Cells, *, key: str | None, hasher: RowHasher | None) -> _Part:
    written = None if key is None else keys_of(cells.column(key))
    return _Part(cells.num_rows, written, None if hasher is None else hasher.table(cells))


def _without_key(file: Path, key: str, index: int) -> BadInputError:
    line = next(row.line for row in rows(file=file) if not row.cells[index])
    return BadInputError(
        f"{file}:{line}: '{key}' is empty: the row has no privacy unit", fix="give the row a key, or remove it"
    )


def _read_records(files: tuple[Path, ...], key: str | None, hasher: RowHasher | None) -> SplitContents:
    """Return the same of TFRecord files, in which each key has its type."""
    keys: dict[type, KeyReader] = {}
    count, digests = 0, [np.empty(0, np.uint64)]
    for file in files:
        found, first = records(file=file), 1
        while batch := list(itertools.islice(found, _RECORDS)):
            count += len(batch)
            if hasher is not None:
                digests.append(hasher.records(batch))
            values = [_key_of(file, first + at, record, key) for at, record in enumerate(batch)] if key else []
            for kind in {type(value) for value in values}:
                reader = keys.setdefault(kind, KeyReader(are_texts=kind is str))
                reader.add([str(value) for value in values if type(value) is kind])
            first += len(batch)
    if len(keys) > 1:
        raise BadInputError(
            f"{files[0].parent}: '{key}' is an integer in some records and a text in others",
            fix="write the keys of all records as one type",
        )
    return SplitContents(next(iter(keys.values()), KeyReader()).done(), count, np.concatenate(digests))


def _key_of(file: Path, number: int, record: bytes, key: str) -> int | str:
    try:
        return key_of(record, key)
    except KeyProblem as problem:
        raise BadInputError(
            f"{file}: record {number} {problem}", fix="give each row one key, an integer or a text, or remove it"
        ) from None
