"""A first look at a user's CSV: column types as TFX infers them, ranges and values. All of it is private data."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from privacy_pipeline.data.counting.cells import bad_inputs
from privacy_pipeline.data.reading.csv_rows import read_header
from privacy_pipeline.data.reading.csv_table import batches
from privacy_pipeline.data.schema.encoder import (
    WIDENING,
    Kind,
    Texts,
    ends_of,
    fractions,
    integers,
    is_missing,
    kinds_of,
    spelled,
)
from privacy_pipeline.data.schema.features import Column
from privacy_pipeline.errors import BadInputError

MOST_VALUES = 200  # a text column with more distinct values is free text or an identifier, not a category


@dataclass(kw_only=True)
class ColumnProfile:
    """What one column holds.

    Attributes:
        name: its name.
        kind: type that TFX's CsvExampleGen infers for it; "empty" also where all its numbers are NaN.
        missing: rows without a value; in a column of numbers `NaN` counts as missing.
        values: rows by value, for the first `MOST_VALUES` + 1 distinct values.
        low, high: range of the finite numbers in it.
    """

    name: str
    kind: Kind = "empty"
    missing: int = 0
    values: Counter[str] = field(default_factory=Counter)
    low: float = math.inf
    high: float = -math.inf

    @property
    def many_values(self) -> bool:
        """Whether there are too many distinct values for a category."""
        return len(self.values) > MOST_VALUES


@dataclass(frozen=True, kw_only=True)
class CsvProfile:
    """What one CSV file holds."""

    rows: int
    columns: tuple[ColumnProfile, ...]


def profile_csv(*, csv_path: Path) -> CsvProfile:
    """Read the whole file once.

    Args:
        csv_path: a CSV file with a header.

    Raises:
        BadInputError: the file cannot be read, is not CSV, has no header or rows, or a number in a column of numbers is
            infinite.
    """
    if not csv_path.exists():
        raise BadInputError(f"{csv_path}: no such file")
    names = read_header(file=csv_path)
    _check_names(csv_path, names)
    readings = [_Reading(name) for name in names]
    rows = 0
    for cells in batches(file=csv_path):
        rows += cells.num_rows
        for reading, column in zip(readings, cells.columns, strict=True):
            reading.add(Texts.of(column))
    if not rows:
        raise BadInputError(f"{csv_path}: has no rows after the header")
    return CsvProfile(rows=rows, columns=tuple(reading.done(csv_path) for reading in readings))


def _check_names(path: Path, names: list[str]) -> None:
    if names == [""]:
        raise BadInputError(f"{path}: has no header", fix="the first line must name the columns")
    for name in names:
        if not name or name != name.strip('\ufeff "'):
            raise BadInputError(
                f"{path}:1: column name {name!r} is not plain",
                fix="write the header without quotes, blanks around names and byte-order mark, and name every column",
            )
        if names.count(name) > 1:
            raise BadInputError(f"{path}:1: column '{name}' is named twice in the header", fix="rename one of the two")


class _Reading:
    """A column as far as it was read."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._widest, self._empty, self._nan, self._infinite = 0, 0, 0, False
        self._texts: Counter[str] = Counter()
        self._low, self._high = math.inf, -math.inf

    def add(self, texts: Texts) -> None:
        """Take the cells of some rows into account."""
        kinds = kinds_of(texts.different)
        rows = np.bincount(texts.places, minlength=len(kinds))
        self._widest = max(self._widest, int(kinds.max(initial=0)))
        self._empty += int(rows[kinds == 0].sum())
        self._add_numbers(texts, kinds == WIDENING.index("int"), kinds == WIDENING.index("float"), rows)
        for at in range(len(kinds)):
            if len(self._texts) > MOST_VALUES + 1:
                break
            self._texts[texts.different[at].as_py()] += int(rows[at])

    def _add_numbers(self, texts: Texts, whole: Any, broken: Any, rows: Any) -> None:
        if whole.any():
            values = integers(texts.different).values[whole]
            self._low, self._high = min(self._low, int(values.min())), max(self._high, int(values.max()))
        if broken.any():
            import pyarrow as pa

            found = fractions(texts.different)
            self._nan += int(rows[broken & found.missing].sum())
            self._infinite = self._infinite or bool((broken & found.wrong).any())
            ends = ends_of(texts.different.filter(pa.array(broken)))
            if ends is not None:
                self._low, self._high = min(self._low, ends[0]), max(self._high, ends[1])

    def done(self, path: Path) -> ColumnProfile:
        """Return what was read; a column that cannot be used is refused."""
        kind = WIDENING[self._widest]
        if kind == "float" and self._infinite:
            self._refuse_infinite(path)
        missing = self._empty + (self._nan if kind == "float" else 0)
        values: Counter[str] = Counter()
        for text, rows in self._texts.items():
            if not is_missing(text, kind):
                values[text if kind == "float" else spelled(text, kind)] += rows
        empty = kind == "float" and self._low > self._high
        return ColumnProfile(
            name=self._name,
            kind="empty" if empty else kind,
            missing=missing,
            values=values,
            low=self._low,
            high=self._high,
        )

    def _refuse_infinite(self, path: Path) -> None:
        column = Column(name=self._name, kind="numeric", dtype="float", optional=True)
        bad = next(bad_inputs(file=path, columns=[column]))
        raise BadInputError(
            f"{path}:{bad.line}: column '{self._name}': {bad.why}", fix="leave the cell empty, or correct it"
        )
