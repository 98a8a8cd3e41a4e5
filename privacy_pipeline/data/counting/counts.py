"""Counts rows and privacy units of each split before a run: the numbers that a dataset is registered with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.config.models.dataset import DatasetConfig, KeyedUnit
from privacy_pipeline.data.counting.row_digests import RowHasher
from privacy_pipeline.data.counting.split_files import read_split
from privacy_pipeline.data.files import ALL, ResolvedSource
from privacy_pipeline.data.reading.csv_rows import read_header
from privacy_pipeline.data.reading.csv_table import batches
from privacy_pipeline.data.reading.tfrecord import count_records
from privacy_pipeline.data.schema.unit_keys import SPLIT_ORDER, UnitKeys, in_both, split_of
from privacy_pipeline.errors import BadInputError, PipelineError

__all__ = [
    "SPLIT_ORDER",
    "Contents",
    "NeedsExampleGen",
    "SplitCount",
    "by_split",
    "count_units",
    "read_contents",
    "require_one_key_type",
    "split_of",
    "unit_keys",
]


class NeedsExampleGen(PipelineError):  # noqa: N818 - names what is needed, not what is wrong
    """Only TFX's ExampleGen can determine which row goes to which split."""


@dataclass(frozen=True, kw_only=True)
class SplitCount:
    """Rows of a split, and how many privacy units own them."""

    rows: int
    units: int


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What one reading of the files gives.

    Attributes:
        counts: rows and units of each split; None where only ExampleGen can count (`NeedsExampleGen`).
        keys: keys of the privacy units of each split; None where rows have none.
        rows: digests of the rows, by split, or all together by `ALL` where a hash divides them.
    """

    counts: dict[str, SplitCount] | None
    keys: dict[str, UnitKeys] | None
    rows: dict[str, NDArray[np.uint64]]


def read_contents(*, source: ResolvedSource, dataset: DatasetConfig, hasher: RowHasher) -> Contents:
    """Read the files once: counts, keys and digests of rows.

    Args:
        source: the files.
        dataset: the config's section.
        hasher: digests rows.

    Raises:
        BadInputError: a row cannot be read or lacks its key, a unit is in both splits, or a split has no rows.
    """
    key = dataset.privacy_unit.key if isinstance(dataset.privacy_unit, KeyedUnit) else None
    read = {split: read_split(files, key, hasher, dataset.format) for split, files in source.files.items()}
    rows = {split: one.digests for split, one in read.items()}
    if key is None:
        same = {split: SplitCount(rows=one.rows, units=one.rows) for split, one in read.items()}
        return Contents(counts=None if dataset.hash_split else _checked(same, dataset), keys=None, rows=rows)
    written = {split: one.keys for split, one in read.items()}
    typed = by_split(written, dataset, key)
    keys = typed if dataset.hash_split is not None else written
    return Contents(counts=_checked(_counted(typed), dataset), keys=keys, rows=rows)


def row_digests(*, source: ResolvedSource, dataset: DatasetConfig, hasher: RowHasher) -> NDArray[np.uint64]:
    """Return digests of all rows, of every split and every unit, in the order of the files.

    Args:
        source: the files.
        dataset: the config's section.
        hasher: digests rows.

    Raises:
        BadInputError: a row cannot be read.
    """
    files = tuple(file for split in sorted(source.files) for file in source.files[split])
    return read_split(files, None, hasher, dataset.format).digests


def _checked(counts: dict[str, SplitCount] | None, dataset: DatasetConfig) -> dict[str, SplitCount] | None:
    for split, found in (counts or {}).items():
        if not found.rows:
            raise BadInputError(
                f"{dataset.path}: split '{split}' has no rows", fix="check dataset.input and hash_split"
            )
    return counts


def count_units(*, source: ResolvedSource, dataset: DatasetConfig) -> dict[str, SplitCount]:
    """Count the rows and units of `train` and `eval`.

    Args:
        source: the files.
        dataset: the config's section.

    Raises:
        BadInputError: a row cannot be read or lacks its key, a unit is in both splits, or a split has no rows.
        NeedsExampleGen: rows are split by the hash of the whole example.
    """
    if isinstance(dataset.privacy_unit, KeyedUnit):
        key = dataset.privacy_unit.key
        read = {split: _keys_of(files, key, dataset) for split, files in source.files.items()}
        counts = _counted(by_split(read, dataset, key))
    else:
        if dataset.hash_split is not None:
            raise NeedsExampleGen("rows split by hash are counted only after ExampleGen has divided them")
        count = _count_rows if dataset.format == "csv" else count_records
        numbers = {split: sum(count(file=file) for file in files) for split, files in source.files.items()}
        counts = {split: SplitCount(rows=number, units=number) for split, number in numbers.items()}
    return _checked(counts, dataset) or {}


def unit_keys(*, source: ResolvedSource, dataset: DatasetConfig) -> dict[str, UnitKeys] | None:
    """Return the keys of the privacy units of each split; None where rows have none.

    Args:
        source: the files.
        dataset: the config's section.

    Raises:
        BadInputError: a row cannot be read or lacks its key.
    """
    unit = dataset.privacy_unit
    if not isinstance(unit, KeyedUnit):
        return None
    read = {split: _keys_of(files, unit.key, dataset) for split, files in source.files.items()}
    if dataset.hash_split is None:
        return read
    return read[ALL].typed(unit.key, dataset.path).divided(dataset.hash_split)


def require_one_key_type(*, source: ResolvedSource, dataset: DatasetConfig) -> None:
    """Refuse several spans in which ExampleGen would read the key as integers in one and as texts in another.

    Together it reads texts then: `07` and `7` become two units, and a number's hash puts it into another split.

    Args:
        source: the files of several spans.
        dataset: the config's section.

    Raises:
        BadInputError: the types differ, or a row cannot be read or lacks its key.
    """
    unit = dataset.privacy_unit
    if not isinstance(unit, KeyedUnit):
        return
    first: dict[str, tuple[int, bool]] = {}
    for span, part in source.parts.items():
        for split, files in part.files.items():
            integers = _keys_of(files, unit.key, dataset).typed(unit.key, dataset.path).are_integers
            earlier, same = first.setdefault(split, (span, integers))
            if same != integers:
                kinds = ("texts", "integers") if integers else ("integers", "texts")
                raise BadInputError(
                    f"{dataset.path}: the keys '{unit.key}' are {kinds[0]} in span {earlier} and {kinds[1]} in span "
                    f"{span}: read together, ExampleGen would take them all for texts, and divide them otherwise",
                    fix="let the keys be of one kind in all spans, or read these spans one at a time",
                )


def _count_rows(*, file: Path) -> int:
    first = read_header(file=file)[:1]
    return sum(cells.num_rows for cells in batches(file=file, columns=first))


def _counted(keys: Mapping[str, UnitKeys]) -> dict[str, SplitCount]:
    return {split: SplitCount(rows=found.rows, units=len(found)) for split, found in keys.items()}


def by_split(read: Mapping[str, UnitKeys], dataset: DatasetConfig, key: str) -> dict[str, UnitKeys]:
    """Return keys as ExampleGen types them, divided as it divides them.

    Args:
        read: keys as they are written, by split, or all together by `ALL`.
        dataset: the config's section.
        key: their column.

    Raises:
        BadInputError: they are read as floating point, or a unit is in both splits.
    """
    typed = {split: found.typed(key, dataset.path) for split, found in read.items()}
    if dataset.hash_split is not None:
        return typed[ALL].divided(dataset.hash_split)
    _refuse_overlap(read, key)
    return typed


def _keys_of(files: tuple[Path, ...], key: str, dataset: DatasetConfig) -> UnitKeys:
    return read_split(files, key, None, dataset.format).keys


def _refuse_overlap(read: Mapping[str, UnitKeys], key: str) -> None:
    # Compared as integers where they look like ones, whatever the type in each split: 07 and 7 may be one person.
    shared = in_both(*read.values())
    if shared:
        raise BadInputError(
            f"{shared} units ('{key}') have rows in both train and eval: evaluation would see trained-on units",
            fix="move each unit's rows to one side, or use one `input` pattern with `hash_split`",
        )
