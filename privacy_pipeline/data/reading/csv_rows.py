"""CSV files read as TFX's CsvExampleGen reads them, row by row and with line numbers: slow, for what is odd or wrong.

`csv_table` reads the rest, many rows at once.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from privacy_pipeline.data.files import unreadable
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import open_plain

LONGEST_RECORD = 2**26  # bytes; a longer line is not a record, and is not read as a whole
_LONGEST_HEADER = 2**24  # bytes
LONGEST_CELL = 131_072  # characters that Python's `csv`, and so TFX, reads of one cell
_COMPRESSED = (".bz2", ".deflate", ".gz", ".lzma", ".xz", ".zst", ".zstd")  # TFX unpacks them, but for the header
_UNBALANCED = 'the quotes (") in this row are not balanced'


@dataclass(frozen=True, kw_only=True)
class Row:
    """One record.

    Attributes:
        line: line of the file that it starts on, from 1.
        cells: its fields; bytes that are not UTF-8 are kept as surrogates.
        problem: why the record cannot be read at all (then it is the file's last), or "".
        decodes: whether all of it is UTF-8.
    """

    line: int
    cells: Sequence[str]
    problem: str = ""
    decodes: bool = True


class _Lines:
    """Lines of a file for csv.reader, noting what the reader does not report of the record they make up."""

    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream
        self.read = 0
        self.quotes = 0
        self.decodes = True
        self.runs_on = False
        self._begun = False

    def __iter__(self) -> Iterator[str]:
        for line in self._stream:  # ends at \n only, as in TFX: a lone \r starts no row
            self._more_is_wanted()
            self._begun = True
            self.read += 1
            self.quotes += line.count(b'"')
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError:
                self.decodes = False
                yield line.decode("utf-8", "surrogateescape")

        self._more_is_wanted()

    def _more_is_wanted(self) -> None:
        # TFX ends a record where the quotes are balanced, and never comes back from one that csv.reader goes on with.
        self.runs_on = self.runs_on or (self._begun and self.quotes % 2 == 0)

    def start_record(self) -> None:
        self._begun = False
        self.quotes = 0
        self.decodes = True


def read_header(*, file: Path) -> list[str]:
    """Return column names as TFX reads them: the first line, stripped, split at every comma; quotes stay in the names.

    Raises:
        BadInputError: the file cannot be read, its name is that of a compressed one, or its first line is not UTF-8 or
            longer than any header.
    """
    if file.suffix in _COMPRESSED:
        raise BadInputError(
            f"{file}: is a compressed file ({file.suffix}), which no command reads", fix="unpack it: plain UTF-8 CSV"
        )
    try:
        with open_plain(file) as stream:
            first = stream.readline(_LONGEST_HEADER + 1)
    except OSError as error:
        raise unreadable(file=file, error=error) from None
    if len(first) > _LONGEST_HEADER:
        raise BadInputError(
            f"{file}:1: the header is longer than {_LONGEST_HEADER >> 20} MiB",
            fix="let the first line name the columns",
        )
    try:
        return first.decode("utf-8").strip().split(",")
    except UnicodeDecodeError:
        raise BadInputError(
            f"{file}:1: the header is not UTF-8 text", fix="save the file as plain (not compressed) UTF-8 CSV"
        ) from None


def check_header_of(file: Path, header: list[str]) -> None:
    """Refuse a header that has a name twice.

    Raises:
        BadInputError: it has.
    """
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise BadInputError(f"{file}:1: column '{twice}' is named twice in the header", fix="rename one of the two")


def rows(*, file: Path) -> Iterator[Row]:
    """Yield records after the header; blank lines are skipped. A record that is not CSV is the last, with its
    `problem`.

    Raises:
        BadInputError: the file cannot be read.
    """
    try:
        with open_plain(file) as stream:
            stream.readline()
            yield from _records(_Lines(iter(partial(stream.readline, LONGEST_RECORD), b"")), first=2)
    except OSError as error:
        raise unreadable(file=file, error=error) from None


def checked_rows(*, file: Path, lines: Iterable[bytes], first: int, width: int) -> Iterator[Row]:
    """Yield records of some lines, each looked at; blank lines are skipped.

    Args:
        file: where they come from, for messages.
        lines: of whole records.
        first: number of the first of them in the file.
        width: number of the file's columns.

    Raises:
        BadInputError: a record cannot be read as `width` texts.
    """
    for row in _records(_Lines(lines), first=first):
        check_row(file, row, width)
        yield row


def check_row(file: Path, row: Row, width: int) -> None:
    """Refuse a row that cannot be read as one of `width` texts.

    Raises:
        BadInputError: it cannot.
    """
    if row.problem:
        raise BadInputError(f"{file}:{row.line}: {row.problem}", fix="correct the row")
    if not row.decodes:
        raise BadInputError(f"{file}:{row.line}: the row is not UTF-8 text", fix="save the file as UTF-8")
    if len(row.cells) != width:
        raise BadInputError(
            f"{file}:{row.line}: the row has {len(row.cells)} fields, the header has {width}",
            fix="quote values that hold commas",
        )


def _records(lines: _Lines, *, first: int) -> Iterator[Row]:
    line = first
    try:
        for cells in csv.reader(lines):
            if lines.quotes % 2 or lines.runs_on:
                # csv.reader tolerates a stray quote, TFX joins lines until the quotes are balanced.
                yield Row(line=line, cells=(), problem=_UNBALANCED)
                return
            if cells:
                yield Row(line=line, cells=cells, decodes=lines.decodes)
            lines.start_record()
            line = lines.read + first
    except csv.Error as error:
        yield Row(line=line, cells=(), problem=_UNBALANCED if lines.runs_on else f"not valid CSV: {error}")


def has_rows(*, file: Path) -> bool:
    """Return whether any line after the header is not blank.

    Raises:
        BadInputError: the file cannot be read.
    """
    try:
        with open_plain(file) as stream:
            stream.readline()
            return any(line.strip() for line in stream)
    except OSError as error:
        raise unreadable(file=file, error=error) from None
