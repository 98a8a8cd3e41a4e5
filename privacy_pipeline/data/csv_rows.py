"""CSV files read as TFX's CsvExampleGen reads them, but row by row and with line numbers."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from privacy_pipeline.data.files import unreadable
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.side_by_side import processors, side_by_side

Found = TypeVar("Found")
_BATCH = 10_000  # rows
_LARGE = 32 * 2**20  # bytes, from which on several processes are worth their start


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
    """Lines of a file for csv.reader, noting what the reader does not tell of the record they make up."""

    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream
        self.read = 0
        self.quotes = 0
        self.decodes = True

    def __iter__(self) -> Iterator[str]:
        for line in self._stream:  # ends at \n only, as in TFX: a lone \r starts no row
            self.read += 1
            self.quotes += line.count(b'"')
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError:
                self.decodes = False
                yield line.decode("utf-8", "surrogateescape")

    def start_record(self) -> None:
        self.quotes = 0
        self.decodes = True


def read_header(*, file: Path) -> list[str]:
    """Column names as TFX reads them: the first line, stripped, split at every comma; quotes stay in the names.

    Raises:
        BadInputError: the file cannot be read or its first line is not UTF-8.
    """
    try:
        with file.open("rb") as stream:
            first = stream.readline()
    except OSError as error:
        raise unreadable(file=file, error=error) from None
    try:
        return first.decode("utf-8").strip().split(",")
    except UnicodeDecodeError:
        raise BadInputError(
            f"{file}:1: the header is not UTF-8 text", fix="save the file as plain (not compressed) UTF-8 CSV"
        ) from None


def rows(*, file: Path) -> Iterator[Row]:
    """Records after the header; blank lines are skipped. A record that is not CSV is the last, with its `problem`.

    Raises:
        BadInputError: the file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            stream.readline()
            yield from _records(_Lines(stream), first=2)
    except OSError as error:
        raise unreadable(file=file, error=error) from None


def batches(*, file: Path, width: int) -> Iterator[Sequence[Sequence[str]]]:
    """The cells of the records after the header, many at once: ten times as fast as `rows` where a line is a record.

    Args:
        file: a CSV file.
        width: number of its columns.

    Raises:
        BadInputError: the file cannot be read, or a record cannot be read as so many texts.
    """
    return mapped(lambda batch: batch, file=file, width=width, processes=1)


def mapped(
    function: Callable[[Sequence[Sequence[str]]], Found], *, file: Path, width: int, processes: int | None = None
) -> Iterator[Found]:
    """What a function gives for each of `batches`, in their order.

    Args:
        function: of the cells of some records.
        file: a CSV file.
        width: number of its columns.
        processes: how many work side by side; by default one for each processor where the file is large.

    Raises:
        BadInputError: the file cannot be read, or a record cannot be read as so many texts.
    """

    def of_lines(piece: tuple[bytes, int]) -> tuple[Found] | None:
        plain = _plain(*piece, width)
        return None if plain is None else (function(plain),)

    try:
        if processes is None:
            processes = processors() if file.stat().st_size > _LARGE else 1
        with file.open("rb") as stream, side_by_side(of_lines, processes=processes) as of_several:
            stream.readline()
            line, taken = 2, iter(lambda: list(itertools.islice(stream, _BATCH)), [])
            while pieces := list(itertools.islice(taken, processes)):
                for at, found in enumerate(of_several([(b"".join(lines), len(lines)) for lines in pieces])):
                    if found is None:  # a record over several lines may go on in the next piece
                        rest = itertools.chain(*pieces[at:], stream)
                        yield from map(function, _checked(file, rest, first=line, width=width))
                        return
                    yield found[0]
                    line += len(pieces[at])
    except OSError as error:
        raise unreadable(file=file, error=error) from None


def _plain(content: bytes, count: int, width: int) -> list[list[str]] | None:
    """The records of some lines if each is one that nothing is to be said of, or is blank; else None."""
    try:
        texts = content.decode("utf-8").split("\n")[:count]
        if any(map((1).__and__, map(str.count, texts, itertools.repeat('"')))):  # an odd number of quotes
            return None
        found = list(csv.reader(texts))
    except (UnicodeDecodeError, csv.Error):
        return None
    widths = {*map(len, found)}
    if len(found) != count or not widths <= {0, width}:
        return None
    return [cells for cells in found if cells] if 0 in widths else found


def _checked(file: Path, lines: Iterable[bytes], *, first: int, width: int) -> Iterator[list[Sequence[str]]]:
    """The same record by record, each looked at."""
    found: list[Sequence[str]] = []
    for row in _records(_Lines(lines), first=first):
        check_row(file, row, width)
        found.append(row.cells)
        if len(found) == _BATCH:
            yield found
            found = []
    if found:
        yield found


def check_row(file: Path, row: Row, width: int) -> None:
    """Refuses a row that cannot be read as one of `width` texts.

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
            if lines.quotes % 2:
                # csv.reader tolerates a stray quote, TFX joins lines until the quotes are balanced.
                yield Row(line=line, cells=(), problem='the quotes (") in this row are not balanced')
                return
            if cells:
                yield Row(line=line, cells=cells, decodes=lines.decodes)
            lines.start_record()
            line = lines.read + first
    except csv.Error as error:
        yield Row(line=line, cells=(), problem=f"not valid CSV: {error}")


def has_rows(*, file: Path) -> bool:
    """Whether any line after the header is not blank.

    Raises:
        BadInputError: the file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            stream.readline()
            return any(line.strip() for line in stream)
    except OSError as error:
        raise unreadable(file=file, error=error) from None
