"""Files that other people made, read no further than their kind can be long, and not waited for without end."""

from __future__ import annotations

import json
import os
import select
import stat
from pathlib import Path
from typing import Any, BinaryIO

from privacy_pipeline.errors import BadInputError

DEEPEST = 200  # lists and mappings of JSON inside of each other
_PATIENCE_SECONDS = 30.0  # for the next bytes of a pipe, or for the program that writes it
_PIECE = 1 << 20  # bytes that are read at once


def read_bounded(path: Path, *, most: int) -> bytes:
    """Return the content of a file, which may be a device that never ends, or a pipe.

    Args:
        path: the file.
        most: bytes.

    Raises:
        OSError: it cannot be read.
        BadInputError: it is longer, or a pipe into which nobody writes.
    """
    # A pipe that is opened otherwise waits for somebody to write.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    content = bytearray()
    try:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            os.read(handle, 1)  # raises IsADirectoryError
        come = select.poll()
        come.register(handle, select.POLLIN)
        while len(content) <= most:
            if not come.poll(_PATIENCE_SECONDS * 1000):
                raise BadInputError(f"{path}: is a pipe, and nothing comes out of it", fix="check the path")
            piece = os.read(handle, min(_PIECE, most + 1 - len(content)))
            if not piece:
                break
            content += piece
    finally:
        os.close(handle)
    if len(content) > most:
        raise BadInputError(f"{path}: is larger than {most >> 10:,} KiB, which no such file is", fix="check the path")
    return bytes(content)


def open_plain(path: Path) -> BinaryIO:
    """Open a file of data for reading, but no pipe or device, which may never end or hold a reader for ever.

    Raises:
        OSError: it cannot be opened.
        BadInputError: it is not a regular file.
    """
    stream = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 (the caller's)
    if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return stream
    stream.close()
    raise BadInputError(f"{path}: is not a regular file", fix="name files only; a pipe can be written to one")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def json_value(content: bytes | str) -> Any:
    """Return the value of JSON text.

    Raises:
        ValueError: it is not JSON, not UTF-8, or is nested more deeply than any file that a person wrote.
    """
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    opened = ("[", "{") if isinstance(content, str) else (b"[", b"{")
    if sum(map(content.count, opened)) > DEEPEST and _is_deeper(value):  # type: ignore[arg-type]
        raise ValueError("it is nested too deeply")
    return value


def _is_deeper(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        below = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list))]
        level = [part for parts in below for part in parts]
        if not level:
            return False
    return True
