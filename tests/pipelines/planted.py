"""Looks for a planted row in all bytes below a folder: plain, and inside of gz, npz, TFRecord and SQLite files."""

from __future__ import annotations

import gzip
import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path


def needles(text: str, number: float) -> dict[str, bytes]:
    """A text, and a number as it may be written: in digits, and as a float of either size."""
    return {
        "text": text.encode(),
        "text in UTF-16": text.encode("utf-16-le"),
        "digits": f"{number:g}".encode() if number < 1e5 else repr(number).encode(),
        "all digits": repr(number).encode(),
        "float32": struct.pack("<f", number),
        "float64": struct.pack("<d", number),
        "float64, as SQLite keeps it": struct.pack(">d", number),
    }


def found_below(folder: Path, wanted: dict[str, bytes]) -> list[str]:
    """Where any of the needles is, and which."""
    return [
        f"{path.relative_to(folder)}: {name}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for name, needle in wanted.items()
        if any(needle in content for content in contents(path))
    ]


def contents(path: Path) -> Iterator[bytes]:
    """A file's bytes, and what they unpack to."""
    raw = path.read_bytes()
    yield raw
    if raw[:2] == b"\x1f\x8b":
        try:
            yield gzip.decompress(raw)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            yield zlib.decompressobj(31).decompress(raw)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    if raw.startswith(b"SQLite format 3\0"):
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            yield "\n".join(connection.iterdump()).encode()
