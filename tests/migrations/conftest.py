"""Unpacks what a release left (`make_fixtures.py`) into a folder of the test's own."""

from __future__ import annotations

import json
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.ledger.storage import keys
from tests.ledger.conftest import fresh, postgresql  # noqa: F401 - fixtures
from tests.migrations.make_fixtures import ROOT

HERE = Path(__file__).parent
RELEASES = sorted(path.name for path in HERE.iterdir() if (path / "expected.json").exists())
_TEXTS = (".json", ".txt", ".yaml", ".html")


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """A release that left fixtures."""
    return str(request.param)


@pytest.fixture
def said(release: str) -> Any:
    """What the release said of its own fixtures."""
    return json.loads((HERE / release / "expected.json").read_text())


def unpack(release: str, name: str, folder: Path) -> None:
    """Writes the files of a fixture; keys are for their owner alone."""
    with tarfile.open(HERE / release / f"{name}.tar.xz") as packed:
        packed.extractall(folder)


@pytest.fixture
def old_ledger(release: str, fresh: str, tmp_path: Path) -> tuple[str, str]:  # noqa: F811
    """The kind of a ledger, and its URL: a database of its own, with key and secret where they belong."""
    kind = fresh.partition(":")[0]
    folder = tmp_path / "unpacked"
    unpack(release, f"ledger-{kind}", folder)
    dump = (folder / "ledger.sql").read_text()
    if kind == "sqlite":
        (folder / "ledger.sql").unlink()
        place = tmp_path / "ledger"
        folder.rename(place)
        with sqlite3.connect(place / "ledger.db") as connection:
            connection.executescript(dump)
        connection.close()
        return kind, fresh
    import psycopg

    with psycopg.connect(fresh) as server:
        server.execute(dump.encode())
    (folder / "ledger_key.pem").rename(tmp_path / "key.pem")
    (folder / "ledger_key.pub").rename(keys.public_file(tmp_path / "key.pem"))
    (folder / "ledger_units.key").rename(tmp_path / "ledger_units.key")
    return kind, fresh


def unpack_project(release: str, root: Path) -> None:
    """A project as its owner would have it: its absolute paths lead to `root`, as they led to where it was made."""
    unpack(release, "project", root)
    for file in root.rglob("*"):
        if file.suffix in _TEXTS and str(ROOT).encode() in (content := file.read_bytes()):
            file.write_bytes(content.replace(str(ROOT).encode(), str(root).encode()))
    with sqlite3.connect(root / "workspace/metadata.db") as connection:
        for table, column in (
            ("Artifact", "uri"),
            ("ArtifactProperty", "string_value"),
            ("ExecutionProperty", "string_value"),
        ):
            connection.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE {column} LIKE ?",
                (str(ROOT), str(root), f"%{ROOT}%"),
            )
    connection.close()


@pytest.fixture
def old_project(release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a project, which is the current one."""
    unpack_project(release, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
