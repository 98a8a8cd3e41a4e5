"""A workspace that was moved or copied: what its own files still say of its former place is read as of today's.

Run folders are mapped when they are read. ML Metadata hands its URIs to TFX as they are, so they are rewritten in the
workspace's own store, once after each move, before anything reads them. A store that others may share (a server, a file
outside of the workspace) is left alone: what it names and is not there counts as gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.files.literal_paths import literal

_RUN_DIR = re.compile(rb'"run_dir":\s*("(?:[^"\\]|\\.)*")')
_HOLDING = ("pipelines", "runs")  # folders of a workspace that artifacts lie in


def as_of_now(content: bytes, *, spec: bytes, folder: Path) -> bytes:
    """Return a JSON file of a run in which the workspace's former folder is today's.

    Args:
        content: the file.
        spec: the run's spec, which says where its folder was.
        folder: where it is, absolute: `<workspace>/runs/<run>`.
    """
    found = _RUN_DIR.search(spec)
    if found is None:
        return content
    before, now = os.path.dirname(os.path.dirname(json_value(found[1]))), str(folder.parents[1])
    if before in ("", now) or before.startswith(f"{now}/"):  # nothing is moved to where it is a part of
        return content
    begins, ends = rb"(?<![^\s\"'(:=,])", rb'(?=[/"])'  # a path, and no part of a longer one
    return re.sub(begins + re.escape(_escaped(before)) + ends, lambda _: _escaped(now), content)


def follow(*, store: Path, root: Path) -> int:
    """Make the URIs of a workspace's own store those of where the workspace lies now.

    Where one artifact's path below `pipelines` or `runs` exists in the workspace, all URIs beside it are taken for its
    own: what was left behind, or removed since, is gone, and is not looked for in the former place.

    Args:
        store: the SQLite file of ML Metadata.
        root: the workspace, absolute.

    Returns:
        How many were rewritten.

    Raises:
        BadInputError: the store cannot be read or written.
    """
    if not store.is_file() or root not in store.parents:
        return 0
    root = literal(root)  # as the libraries are given it
    try:
        with contextlib.closing(sqlite3.connect(store, timeout=60.0)) as connection, connection:
            moved = [(new, number) for number, new in _moved(connection, root)]
            connection.executemany("UPDATE Artifact SET uri = ? WHERE id = ?", moved)
    except sqlite3.Error as error:
        raise BadInputError(
            f"{store}: cannot be followed to where its workspace lies now ({error})", fix="check the file's permissions"
        ) from error
    return len(moved)


def _moved(connection: sqlite3.Connection, root: Path) -> Iterator[tuple[int, str]]:
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'Artifact'").fetchone() is None:
        return
    inside = f"{root}/"
    elsewhere = "SELECT id, uri FROM Artifact WHERE uri != '' AND substr(uri, 1, ?) != ?"
    found = connection.execute(elsewhere, (len(inside), inside)).fetchall()
    for former in {former for _, uri in found if (former := _former(uri, root)) is not None}:
        yield from ((number, f"{root}{uri[len(former) :]}") for number, uri in found if uri.startswith(f"{former}/"))


def _former(uri: str, root: Path) -> str | None:
    """Where the workspace lay that a URI is of, if its artifact is in this one too; else None."""
    parts = uri.split("/")
    for place in range(len(parts) - 1, 0, -1):
        if parts[place] in _HOLDING and os.path.exists(os.path.join(root, *parts[place:])):
            return "/".join(parts[:place])
    return None


def _escaped(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()
