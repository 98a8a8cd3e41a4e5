"""Files that other people made, read no further than their kind can be long."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from privacy_pipeline.errors import BadInputError

DEEPEST = 200  # lists and mappings of JSON inside of each other


def read_bounded(path: Path, *, most: int) -> bytes:
    """The content of a file, which may be a device that never ends.

    Args:
        path: the file.
        most: bytes.

    Raises:
        OSError: it cannot be read.
        BadInputError: it is longer.
    """
    with path.open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise BadInputError(f"{path}: is larger than {most >> 10:,} KiB, which no such file is", fix="check the path")
    return content


def json_value(content: bytes | str) -> Any:
    """The value of JSON text.

    Raises:
        ValueError: it is none, is no UTF-8, or is nested so deeply that nobody wrote it.
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
