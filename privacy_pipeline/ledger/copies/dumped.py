"""Reads the tables of a ledger from what `pg_restore --data-only` prints: COPY blocks, as PostgreSQL documents them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa

from privacy_pipeline.ledger.storage.schema import LedgerError
from privacy_pipeline.ledger.storage.tables import metadata

_COPY = re.compile(r"COPY (?:\w+\.)?(?P<table>\w+) \((?P<columns>[^)]*)\) FROM stdin;")
_ESCAPED = re.compile(r"\\(.)")
_SPELLED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_BATCH = 1000


def load(connection: sa.Connection, text: str) -> None:
    """Write the rows of a dump into empty tables.

    Args:
        connection: a write transaction.
        text: what `pg_restore` printed.

    Raises:
        LedgerError: a block is not of a ledger's table.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for name, rows in _blocks(text):
        if name not in metadata.tables:
            raise LedgerError(f"the dump holds a table {name}, which no ledger has")
        found[name] = rows
    for table in metadata.sorted_tables:
        rows = found.get(table.name, [])
        for start in range(0, len(rows), _BATCH):
            connection.execute(table.insert(), rows[start : start + _BATCH])


def _blocks(text: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    lines = iter(text.split("\n"))
    for line in lines:
        begun = _COPY.fullmatch(line)
        if begun is None:
            continue
        columns = [name.strip().strip('"') for name in begun["columns"].split(",")]
        table = metadata.tables.get(begun["table"])
        reads = [_reader(table, name) for name in columns]
        rows = []
        for row in lines:
            if row == "\\.":
                break
            cells = row.split("\t")
            if len(cells) != len(columns):
                raise LedgerError(f"the dump of table {begun['table']} is damaged")
            rows.append({name: read(cell) for name, read, cell in zip(columns, reads, cells, strict=True)})
        yield begun["table"], rows


def _reader(table: sa.Table | None, column: str) -> Callable[[str], Any]:
    kind = table.c[column].type if table is not None and column in table.c else None
    convert: Callable[[str], Any] = str
    if isinstance(kind, sa.Boolean):
        convert = "t".__eq__
    elif isinstance(kind, sa.Integer):
        convert = int
    elif isinstance(kind, sa.Float):
        convert = float
    elif isinstance(kind, sa.LargeBinary):
        convert = _bytes
    return lambda cell: None if cell == "\\N" else convert(_plain(cell))


def _plain(cell: str) -> str:
    return _ESCAPED.sub(lambda found: _SPELLED.get(found[1], found[1]), cell)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("\\x"))
