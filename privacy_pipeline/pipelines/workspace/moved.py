"""Map the paths in a workspace that was moved or copied from its former place to its present one.

Paths in run folders are mapped when they are read. ML Metadata hands its URIs to TFX unchanged, so the URIs are
rewritten in the workspace's own store, once after each move, before anything reads them. A store that other workspaces
may share (a server, or a file outside the workspace) is left alone: files that it names and that are missing count as
gone.
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
    """Return a JSON file of a run with the workspace's former folder replaced by the present one.

    Args:
        content: the file.
        spec: the run's spec, which holds its former folder.
        folder: its present folder, absolute: `<workspace>/runs/<run>`.
    """
    found = _RUN_DIR.search(spec)
    if found is None:
        return content
    before, now = os.path.dirname(os.path.dirname(json_value(found[1]))), str(folder.parents[1])
    if before in ("", now) or before.startswith(f"{now}/"):  # a path below the present folder is not mapped
        return content
    begins, ends = rb"(?<![^\s\"'(:=,])", rb'(?=[/"])'  # a whole path, not a part of a longer one
    return re.sub(begins + re.escape(_escaped(before)) + ends, lambda _: _escaped(now), content)


def follow(*, store: Path, root: Path) -> int:
    """Rewrite the URIs of a workspace's own store to where the workspace lies now.

    If one artifact's path below `pipelines` or `runs` exists in the workspace, all URIs of the same former folder are
    rewritten: files that were left behind, or removed since, count as gone and are not read from the former place.

    Args:
        store: the SQLite file of ML Metadata.
        root: the workspace, absolute.

    Returns:
        The number of rewritten URIs.

    Raises:
        BadInputError: the store cannot be read or written.
    """
    if not store.is_file() or root not in store.parents:
        return 0
    root = literal(root)  # as the libraries get it
    try:
        with contextlib.closing(sqlite3.connect(store, timeout=60.0)) as connection, connection:
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'Artifact'").fetchone() is None:
                return 0  # another run makes the store at this moment
            moved = [(new, number) for number, new in _moved(connection, root)]
            connection.executemany("UPDATE Artifact SET uri = ? WHERE id = ?", moved)
    except sqlite3.Error as error:
        raise BadInputError(
            f"{store}: its paths cannot be updated after the workspace moved ({error})",
            fix="check the file's permissions",
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
    """Return the former folder of the workspace in a URI, if the artifact is in this workspace too; else None."""
    parts = uri.split("/")
    for place in range(len(parts) - 1, 0, -1):
        if parts[place] in _HOLDING and os.path.exists(os.path.join(root, *parts[place:])):
            return "/".join(parts[:place])
    return None


def _escaped(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()
