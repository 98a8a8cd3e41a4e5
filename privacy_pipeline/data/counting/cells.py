"""Find the cells that violate the public schema, after validation has reported that there are some."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from privacy_pipeline.config.models.dataset import DatasetConfig
from privacy_pipeline.data.files import ResolvedSource
from privacy_pipeline.data.reading.csv_rows import Row, read_header, rows
from privacy_pipeline.data.schema.encoder import LONGEST_CATEGORY, as_single, is_missing, spelled, too_long
from privacy_pipeline.data.schema.features import Column, FeaturePlan
from privacy_pipeline.data.schema.unit_keys import as_int

_LONGEST = 40
_WHAT = {"int": "an integer", "float": "a number"}

Check = Callable[[str], str]  # takes a cell, gives what is wrong with it, or ""


@dataclass(frozen=True, kw_only=True)
class BadCell:
    """A cell, or a whole row (then `column` is empty), that the schema does not allow."""

    file: Path
    line: int
    column: str
    value: str
    why: str


def locate(*, source: ResolvedSource, dataset: DatasetConfig, features: FeaturePlan, limit: int = 5) -> list[BadCell]:
    """Scan CSV files for cells that violate the plan; TFRecord files have no lines to name and give none.

    Args:
        source: the files.
        dataset: the config's section.
        features: columns with their public domains and ranges.
        limit: the largest number of cells.

    Raises:
        BadInputError: a file cannot be read.
    """
    found: list[BadCell] = []
    if dataset.format != "csv":
        return found
    for files in source.files.values():
        for file in files:
            for cell in _bad_cells(file, features):
                if len(found) == limit:
                    return found
                found.append(cell)
    return found


def first_bad(*, file: Path, features: FeaturePlan) -> BadCell | None:
    """Return the first row or cell of a CSV file that violates the plan.

    Args:
        file: CSV with a header.
        features: columns with their public domains and ranges.

    Raises:
        BadInputError: the file cannot be read.
    """
    return next(_bad_cells(file, features), None)


def bad_inputs(*, file: Path, columns: Sequence[Column]) -> Iterator[BadCell]:
    """Yield rows and cells of a CSV file that the columns do not allow; what else the file has is not looked at.

    Args:
        file: rows to be predicted, with or without a label.
        columns: the model's inputs.

    Raises:
        BadInputError: the file cannot be read.
    """
    yield from _bad_rows(file, {column.name: _check_of(column) for column in columns})


def _bad_cells(file: Path, features: FeaturePlan) -> Iterator[BadCell]:
    yield from _bad_rows(file, _checks(features))


def _bad_rows(file: Path, checks: dict[str, Check]) -> Iterator[BadCell]:
    header = read_header(file=file)
    for row in rows(file=file):
        if row.problem:
            yield BadCell(file=file, line=row.line, column="", value="", why=row.problem)
        elif len(row.cells) != len(header):
            why = f"the row has {len(row.cells)} fields, the header has {len(header)}"
            yield BadCell(file=file, line=row.line, column="", value="", why=why)
        else:
            yield from _bad_in_row(file, row, header, checks)


def _bad_in_row(file: Path, row: Row, header: list[str], checks: dict[str, Check]) -> Iterator[BadCell]:
    for name, value in zip(header, row.cells, strict=True):
        why = _undecodable(value) if not row.decodes else ""
        why = why or (checks[name](value) if name in checks else "")
        if why:
            shown = value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            yield BadCell(file=file, line=row.line, column=name, value=shown, why=why)


def _checks(features: FeaturePlan) -> dict[str, Check]:
    checks = {column.name: _check_of(column) for column in features.columns}
    checks[features.label] = _check_of(features.label_column)
    if features.unit_key is not None:
        checks[features.unit_key] = _key_check(features.unit_key_dtype == "int")
    return checks


def _check_of(column: Column) -> Check:
    domain = frozenset(column.domain)

    def check(cell: str) -> str:
        if is_missing(cell, column.dtype):
            said = f" ({_short(cell)} is a missing value)" if cell else ""
            return "" if column.optional else f"the value is missing{said}"
        if column.kind == "categorical":
            return _categorical(cell, column, domain)
        return _numeric(cell, column)

    return check


def _categorical(cell: str, column: Column, domain: frozenset[str]) -> str:
    text = spelled(cell, column.dtype)
    if column.dtype == "int" and as_int(cell) is None:
        return f"{_short(cell)} is not an integer"
    if domain and text not in domain:
        return f"{_short(cell)} is not in the schema's domain"
    is_long = domain and len(text.encode("utf-8", "surrogateescape")) > LONGEST_CATEGORY
    return f"{_short(cell)} is longer than the {LONGEST_CATEGORY:,} bytes of a category" if is_long else ""


def _numeric(cell: str, column: Column) -> str:
    value = as_int(cell) if column.dtype == "int" else as_single(cell)
    if value is None:
        return f"{_short(cell)} is not {'an integer of 64 bits' if too_long(cell) else _WHAT[column.dtype]}"
    if math.isinf(value):
        return f"{_short(cell)} is not a finite number"
    if column.minimum is not None and value < column.minimum:
        return f"{_short(cell)} is below the schema's minimum {column.minimum:g}"
    if column.maximum is not None and value > column.maximum:
        return f"{_short(cell)} is above the schema's maximum {column.maximum:g}"
    return ""


def _key_check(integer: bool) -> Check:
    def check(cell: str) -> str:
        if not cell:
            return "the row has no privacy unit"
        return f"{_short(cell)} is not an integer" if integer and as_int(cell) is None else ""

    return check


def _undecodable(cell: str) -> str:
    has_surrogate = any("\udc80" <= character <= "\udcff" for character in cell)
    return "holds bytes that are not UTF-8" if has_surrogate else ""


def _short(cell: str) -> str:
    return repr(cell if len(cell) <= _LONGEST else cell[: _LONGEST - 3] + "...")
