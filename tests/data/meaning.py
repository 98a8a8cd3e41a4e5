"""What a CSV file means, as slowly and as plainly as it can be said: what each command is compared with."""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

ORDER = ("empty", "int", "float", "bytes")


class RefusedError(Exception):
    """No command may read this."""


@dataclass(frozen=True)
class Meaning:
    """Column names, and the cells of each record."""

    names: list[str]
    rows: list[list[str]]

    def column(self, name: str) -> list[str]:
        at = self.names.index(name)
        return [row[at] for row in self.rows]

    def kind(self, name: str) -> str:
        return max((kind(cell) for cell in self.column(name)), key=ORDER.index, default="empty")

    def values(self, name: str) -> list[object]:
        """None where a value is missing; an integer, the 32 bits of a number, or a text."""
        typed = self.kind(name)
        return [value(cell, typed) for cell in self.column(name)]

    def missing(self, name: str) -> int:
        return sum(found is None for found in self.values(name))

    def keys(self, name: str) -> Counter[object]:
        return Counter(self.values(name))


def kind(cell: str) -> str:
    if cell == "":
        return "empty"
    raw = cell.encode()
    try:
        return "int" if -(2**63) <= int(raw) < 2**63 else "bytes"
    except ValueError:
        pass
    try:
        float(raw)
    except ValueError:
        return "bytes"
    return "float"


def value(cell: str, typed: str) -> object:
    if cell == "":
        return None
    if typed == "int":
        return int(cell)
    if typed == "float":
        with np.errstate(over="ignore"):
            found = float(np.float32(float(cell)))
        return None if math.isnan(found) else found
    return cell


def read(content: bytes) -> Meaning:
    """Lines are joined until their quotes are balanced; each such record is CSV by itself.

    Raises:
        RefusedError: it is not.
    """
    head, _, body = content.partition(b"\n")
    try:
        names = head.decode().strip().split(",")
        lines = body.decode().split("\n")
    except UnicodeDecodeError:
        raise RefusedError("not UTF-8") from None
    if len(set(names)) < len(names) or names == [""]:
        raise RefusedError("header")
    rows, record = [], ""
    for at, line in enumerate(lines):
        record += line + ("\n" if at < len(lines) - 1 else "")
        if record.count('"') % 2 == 0:
            cells = _cells(record)
            record = ""
            if cells and len(cells) != len(names):
                raise RefusedError("width")
            rows += [cells] if cells else []
    if record:
        raise RefusedError("quotes")
    return Meaning(names, rows)


def _cells(record: str) -> list[str]:
    asked = 0

    def once():
        nonlocal asked
        yield record
        asked += 1

    try:
        found = next(csv.reader(once()), [])
    except csv.Error as error:
        raise RefusedError(str(error)) from None
    if asked and record:  # a quote that never closes
        raise RefusedError("quotes")
    return found
