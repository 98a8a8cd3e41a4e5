"""A first look at a user's CSV: column types as TFX infers them, ranges and values. All of it is private data."""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TextIO

from privacy_pipeline.errors import BadInputError

MOST_VALUES = 200  # a text column with more distinct values is free text or an identifier, not a category
_INT64 = range(-(2**63), 2**63)

Kind = Literal["empty", "int", "float", "bytes"]
_WIDENING: tuple[Kind, ...] = ("empty", "int", "float", "bytes")


@dataclass(kw_only=True)
class ColumnProfile:
    """What one column holds.

    Attributes:
        name: its name.
        kind: type that TFX's CsvExampleGen infers for it.
        missing: rows without a value.
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

    def add(self, cell: str) -> None:
        """Takes one cell into account."""
        if not cell:
            self.missing += 1
            return
        kind, number = _typed(cell)
        self.kind = max(self.kind, kind, key=_WIDENING.index)
        if number is not None and math.isfinite(number):
            self.low, self.high = min(self.low, number), max(self.high, number)
        if cell in self.values or not self.many_values:
            self.values[cell] += 1


@dataclass(frozen=True, kw_only=True)
class CsvProfile:
    """What one CSV file holds."""

    rows: int
    columns: tuple[ColumnProfile, ...]


def profile_csv(*, csv_path: Path) -> CsvProfile:
    """Reads the whole file once.

    Args:
        csv_path: a CSV file with a header.

    Raises:
        BadInputError: the file cannot be read, is not CSV, or has no header or rows.
    """
    try:
        with csv_path.open(encoding="utf-8", newline="") as stream:
            # TFX reads the header this way: quotes would become part of the names.
            columns = tuple(ColumnProfile(name=name) for name in stream.readline().strip().split(","))
            _check_names(csv_path, [column.name for column in columns])
            rows = _add_rows(csv_path, stream, columns)
    except FileNotFoundError:
        raise BadInputError(f"{csv_path}: no such file") from None
    except UnicodeDecodeError:
        raise BadInputError(f"{csv_path}: not UTF-8 text", fix="save the file as plain UTF-8 CSV") from None
    except OSError as error:
        raise BadInputError(f"{csv_path}: cannot be read ({error.strerror})") from None
    if not rows:
        raise BadInputError(f"{csv_path}: has no rows after the header")
    return CsvProfile(rows=rows, columns=columns)


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


def _add_rows(path: Path, stream: TextIO, columns: tuple[ColumnProfile, ...]) -> int:
    rows = 0
    reader = csv.reader(stream, strict=True)
    try:
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(columns):
                raise BadInputError(
                    f"{path}:{reader.line_num + 1}: the row has {len(cells)} fields, the header has {len(columns)}",
                    fix="quote values that hold commas",
                )
            rows += 1
            for column, cell in zip(columns, cells, strict=True):
                column.add(cell)
    except csv.Error as error:
        raise BadInputError(f"{path}:{reader.line_num + 1}: not valid CSV: {error}") from None
    return rows


def _typed(cell: str) -> tuple[Kind, float | None]:
    ascii_or_not = cell.encode("utf-8")
    try:
        number = int(ascii_or_not)
    except ValueError:
        try:
            return "float", float(ascii_or_not)
        except ValueError:
            return "bytes", None
    return ("int", number) if number in _INT64 else ("bytes", None)
