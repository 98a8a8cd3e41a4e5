"""The one reader of CSV files: their cells as Arrow tables of texts, block by block, as TFX's CsvExampleGen reads them.

A record ends at the first newline before which the number of quotes is even, so a file is cut there. A block in which
every quote opens, closes or is doubled, as RFC 4180 has it, is read by `pyarrow.csv`; any other one record by record
(`csv_rows`), which also reports what is wrong with it, and where.
"""

from __future__ import annotations

import functools
import gc
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.data.files import unreadable
from privacy_pipeline.data.reading.csv_rows import (
    LONGEST_CELL,
    LONGEST_RECORD,
    check_header_of,
    checked_rows,
    read_header,
)
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import open_plain
from privacy_pipeline.processes.side_by_side import processors, side_by_side

if TYPE_CHECKING:
    import pyarrow as pa

Found = TypeVar("Found")
Cells: TypeAlias = "pa.RecordBatch"  # one field for each column, all of type string; a cell without a text is ""

_BLOCK = 2**22  # bytes that are read at once
_LARGE = 32 * 2**20  # bytes of a file, from which on several processes are worth their start
_BOM = b"\xef\xbb\xbf"
_QUOTE, _COMMA, _NEWLINE, _RETURN = b'",\n\r'


def batches(*, file: Path, columns: Sequence[str] | None = None) -> Iterator[Cells]:
    """Return the cells of the records after the header, some thousand records at once; blank lines are skipped.

    Args:
        file: a CSV file.
        columns: names of those that are wanted, in their order; all of them, as they stand in the file, if None.

    Raises:
        BadInputError: the file cannot be read, a column is missing, or a record has another number of texts.
    """
    return mapped(lambda cells: cells, file=file, columns=columns, processes=1)


def mapped(
    function: Callable[[Cells], Found],
    *,
    file: Path,
    columns: Sequence[str] | None = None,
    processes: int | None = None,
) -> Iterator[Found]:
    """Yield what a function gives for each of `batches`, in their order.

    Args:
        function: of the cells of some records.
        file, columns: as in `batches`.
        processes: how many work side by side; by default one for each processor where the file is large.

    Raises:
        BadInputError: as `batches`.
    """
    header = read_header(file=file)
    if header == [""]:
        raise BadInputError(f"{file}: has no header", fix="let the first line name the columns")
    if header[0].startswith("\ufeff"):
        raise BadInputError(
            f"{file}:1: begins with a byte-order mark",
            fix="save the file without a byte-order mark (UTF-8, not UTF-8-BOM)",
        )
    check_header_of(file, header)
    names = tuple(header) if columns is None else tuple(columns)
    for name in names:
        if name not in header:
            raise BadInputError(f"{file}: column '{name}' is missing; the columns are: {', '.join(header)}")
    places = [header.index(name) for name in names]

    def of_block(block: bytes) -> tuple[Found] | None:
        cells = _plain(block, len(header), places, names)
        return None if cells is None else (function(cells),)

    try:
        if processes is None:
            processes = processors() if file.stat().st_size > _LARGE else 1
        with open_plain(file) as stream, side_by_side(of_block, processes=processes) as of_several:
            stream.readline()
            line, blocks = 2, _blocks(stream)
            while pieces := list(itertools.islice(blocks, processes)):
                for block, found in zip(pieces, of_several(pieces), strict=True):
                    if found is None:
                        found = (function(_one_by_one(file, block, line, len(header), places, names)),)
                    yield found[0]
                    line += block.count(b"\n")
    except OSError as error:
        raise unreadable(file=file, error=error) from None


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    """Pieces of whole records. What is longer than any record can be is a piece too, and is refused by its reader."""
    rest = b""
    while read := stream.read(_BLOCK):
        block = rest + read
        end = _end_of_records(block)
        if end == 0 and len(block) > LONGEST_RECORD:
            end = len(block)
        if end:
            yield block[:end]
        rest = block[end:]
    if rest:
        yield rest


def _end_of_records(block: bytes) -> int:
    """Return the place behind the last newline before which the number of quotes is even; 0 where there is none."""
    end = block.rfind(b"\n") + 1
    odd = block.count(b'"', 0, end) % 2
    while odd and end:
        quote = block.rfind(b'"', 0, end)
        before = block.rfind(b"\n", 0, quote) + 1
        odd = (odd + block.count(b'"', before, end)) % 2
        end = before
    return end


def _plain(block: bytes, width: int, places: Sequence[int], names: Sequence[str]) -> Cells | None:
    """Return the cells of a block that Arrow and Python's `csv` cannot read differently; None where they might."""
    import pyarrow as pa
    from pyarrow import csv

    if b"\0" in block or block.startswith(_BOM) or block.count(b"\r") != block.count(b"\r\n"):
        return None
    try:
        if not block.isascii():
            block.decode("utf-8")
    except UnicodeDecodeError:
        return None
    quoted = b'"' in block
    if not _is_well_formed(block, quoted=quoted):
        return None
    columns = [str(place) for place in range(width)]
    wanted = [columns[place] for place in places]
    try:
        with _heap_out_of_sight():
            table = csv.read_csv(
                pa.BufferReader(block),
                read_options=csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=columns),
                parse_options=csv.ParseOptions(quote_char='"' if quoted else False, newlines_in_values=quoted),
                convert_options=csv.ConvertOptions(
                    check_utf8=False,
                    column_types=dict.fromkeys(wanted, pa.string()),
                    include_columns=wanted,
                    strings_can_be_null=False,
                ),
            )
    except pa.ArrowInvalid:  # a record of another width, which is then named with its line
        return None
    arrays = [column.combine_chunks() if column.num_chunks != 1 else column.chunk(0) for column in table.columns]
    return _batch(arrays, names)


@contextmanager
def _heap_out_of_sight() -> Iterator[None]:
    """Keep pyarrow from searching all objects of the process, as it does at each call under Python 3.10.

    The search leaves frozen objects out. A heap that is frozen already, such as that of a pipeline's worker, stays so.
    """
    if _heap_was_frozen():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@functools.cache
def _heap_was_frozen() -> bool:
    """Asked once a process: Python counts the frozen objects one by one, some 10 ms in a worker."""
    return gc.get_freeze_count() > 0


def _is_well_formed(block: bytes, *, quoted: bool) -> bool:
    """Return whether each quote is where RFC 4180 has it, and no record is longer than a cell may be."""
    letters = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(letters == _NEWLINE)
    if quoted:
        quotes = np.flatnonzero(letters == _QUOTE)
        if len(quotes) % 2 or not _opens_and_closes(letters, quotes):
            return False
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
    longest = np.diff(ends, prepend=-1, append=len(block)).max()
    return bool(longest <= LONGEST_CELL)


def _opens_and_closes(letters: NDArray[np.uint8], quotes: NDArray[np.int64]) -> bool:
    opening, closing = quotes[::2], quotes[1::2]
    before = letters[np.maximum(opening - 1, 0)]
    again = np.zeros(len(opening), np.bool_)  # the second of two quotes that stand for one
    again[1:] = opening[1:] == closing[:-1] + 1
    if not np.all((opening == 0) | (before == _COMMA) | (before == _NEWLINE) | again):
        return False
    after = letters[np.minimum(closing + 1, len(letters) - 1)]
    doubled = np.zeros(len(closing), np.bool_)
    doubled[:-1] = again[1:]
    last = closing == len(letters) - 1
    return bool(np.all(last | (after == _COMMA) | (after == _NEWLINE) | (after == _RETURN) | doubled))


def _one_by_one(file: Path, block: bytes, line: int, width: int, places: Sequence[int], names: Sequence[str]) -> Cells:
    """Return the same record by record, each looked at."""
    import pyarrow as pa

    rows = [row.cells for row in checked_rows(file=file, lines=io.BytesIO(block), first=line, width=width)]
    return _batch([pa.array([cells[place] for cells in rows], pa.string()) for place in places], names)


def _batch(arrays: Sequence[pa.Array], names: Sequence[str]) -> Cells:
    import pyarrow as pa

    return pa.RecordBatch.from_arrays(list(arrays), names=list(names))
