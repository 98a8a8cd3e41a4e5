"""Checks the headers of CSV files against what the schema and the config ask for, before anything expensive runs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from privacy_pipeline.config.models.dataset import DatasetConfig
from privacy_pipeline.data.files import ResolvedSource
from privacy_pipeline.data.reading.csv_rows import check_header_of, has_rows, read_header
from privacy_pipeline.errors import BadInputError


def check_headers(
    *, source: ResolvedSource, dataset: DatasetConfig, columns: Sequence[str], label: str, unit_key: str | None
) -> None:
    """Read the first line of every CSV file; TFRecord files have no header and pass.

    Args:
        source: the files.
        dataset: the config's section.
        columns: columns that the schema has.
        label: label column.
        unit_key: column that names the privacy unit, if units own several rows.

    Raises:
        BadInputError: a column is missing or named twice, files of a split differ, or a split has no rows.
    """
    if dataset.format != "csv":
        return
    wanted = dict.fromkeys(columns, "the schema has it")
    wanted[label] = "it is dataset.label"
    if unit_key is not None:
        wanted[unit_key] = "it is dataset.privacy_unit.key"
    for split, files in source.files.items():
        headers = {file: read_header(file=file) for file in files}
        for file, header in headers.items():
            check_header(file=file, header=header, wanted=wanted)
        _check_same(headers)
        if not any(has_rows(file=file) for file in files):
            raise BadInputError(
                f"{dataset.path}: '{source.patterns[split]}' ({split}) has no rows after the header",
                fix="add rows, or point dataset.input at other files",
            )


def check_header(*, file: Path, header: list[str], wanted: Mapping[str, str]) -> None:
    """Refuse a header that lacks a wanted column, or has a name twice.

    Args:
        file: named in the error.
        header: its column names.
        wanted: why, by column.

    Raises:
        BadInputError: as above.
    """
    check_header_of(file, header)
    for name, why in wanted.items():
        if name not in header:
            raise BadInputError(f"{file}: column '{name}' is missing ({why})", fix=_advice(name, header))


def _advice(name: str, header: list[str]) -> str:
    bare = {column.strip('\ufeff \t"'): column for column in header}
    if header[0].startswith("\ufeff") and bare.get(name) == header[0]:
        return "save the file without a byte-order mark (UTF-8, not UTF-8-BOM)"
    if name in bare:
        return f"the header has {bare[name]!r}: remove the quotes and blanks around the name"
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        return "separate the columns by commas"
    near = difflib.get_close_matches(name, header, n=1)
    if near:
        return f"the header has '{near[0]}': rename one of the two"
    return f"the header has: {', '.join(header)}"


def _check_same(headers: dict[Path, list[str]]) -> None:
    first, *others = headers
    for file in others:
        if headers[file] != headers[first]:
            raise BadInputError(
                f"{file}: the header differs from that of {first}",
                fix="give all files of a split the same columns in the same order",
            )
