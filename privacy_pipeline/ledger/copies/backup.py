"""Copies of a whole ledger: made while it is in use, and read again without a change to them.

SQLite's own backup gives a file that is a ledger itself; a PostgreSQL ledger is dumped by `pg_dump`, and read by way of
`pg_restore`. Neither holds the keys. These programs take a password from the environment or a file, as the ledger does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import open_plain
from privacy_pipeline.files.file_rights import make_folders
from privacy_pipeline.ledger import write_transactions
from privacy_pipeline.ledger.copies import dumped
from privacy_pipeline.ledger.opening import open_engine
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.ledger.storage.journal import Head
from privacy_pipeline.ledger.storage.tables import SCHEMA_VERSION, metadata
from privacy_pipeline.processes.programs import ending_with_us

_DUMP, _SQLITE = b"PGDMP", b"SQLite format 3\0"


def backup(url: str, file: Path) -> Head:
    """Copy a ledger to a file that is whole or absent.

    Args:
        url: SQLAlchemy URL of the ledger.
        file: where to; must not exist.

    Returns:
        The head of the copy, after it was checked against the journal and the tables.

    Raises:
        BadInputError: there is no ledger, or the file exists.
        LedgerError: the ledger cannot be read, the file cannot be written, or the copy is not whole.
    """
    engine = open_engine(url, create=False)
    part = file.with_name(f".{file.name}.part")
    if file.exists():
        raise BadInputError(f"{file} exists", fix="name a new file; a backup never replaces another one")
    try:
        make_folders(file.parent)
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        if schema.sqlite_file(engine.url) is not None:
            _copy_sqlite(engine, part)
        else:
            _dump(engine.url, part)
        with opened(part) as copy, schema.transaction(copy, write=False) as connection:
            head = _checked(connection)
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        os.link(part, file)
    except (OSError, sqlite3.Error) as error:
        raise schema.LedgerError(
            f"{file}: the ledger cannot be copied there ({error})", fix="free space and rights"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return head


def _copy_sqlite(engine: sa.Engine, part: Path) -> None:
    source = engine.raw_connection()
    try:
        with contextlib.closing(sqlite3.connect(part)) as target:
            source.driver_connection.backup(target)  # type: ignore[union-attr]
            target.execute("PRAGMA journal_mode=DELETE")  # so that it is one file
    finally:
        source.close()


def _checked(connection: sa.Connection) -> Head:
    found = schema.stored_format(connection)
    if found != SCHEMA_VERSION:
        raise BadInputError(
            f"the ledger has format {found}; a backup is made of format {SCHEMA_VERSION}", fix="budget migrate, first"
        )
    return write_transactions.checked_head(connection, since=found)


@contextlib.contextmanager
def opened(file: Path) -> Iterator[sa.Engine]:
    """Open a backup as a ledger that can be read: a copy of it, so that nothing is written beside the file.

    Raises:
        BadInputError: the file cannot be read, or is not a backup of a ledger.
        LedgerError: `pg_restore` fails.
    """
    try:
        with open_plain(file) as stream:
            begins = stream.read(len(_SQLITE))
        with tempfile.TemporaryDirectory(prefix="privacy-pipeline-") as folder:
            copy = Path(folder, "ledger.db")
            if begins == _SQLITE:
                shutil.copyfile(file, copy)
                log = file.with_name(f"{file.name}-wal")
                if log.is_file():  # of a file that was copied by hand
                    shutil.copyfile(log, copy.with_name("ledger.db-wal"))
            elif not begins.startswith(_DUMP):
                raise BadInputError(f"{file} is not a backup of a ledger", fix="give a file that `budget backup` wrote")
            engine = schema.connect(sa.URL.create("sqlite", database=str(copy)))
            if begins.startswith(_DUMP):
                with schema.transaction(engine, write=True) as connection:
                    metadata.create_all(connection)
                    dumped.load(connection, _text_of(file))
            with schema.transaction(engine, write=False) as connection:
                if not sa.inspect(connection).has_table(schema.journal.name):
                    raise BadInputError(f"{file} holds no ledger", fix="give a file that `budget backup` wrote")
            yield engine
    except OSError as error:
        raise BadInputError(f"{file}: cannot be read ({error.strerror})", fix="check its path and rights") from error


def _dump(url: sa.URL, part: Path) -> None:
    tables = [word for table in metadata.sorted_tables for word in ("--table", table.name)]
    words = ["--format=custom", "--no-owner", "--no-privileges", *tables, "--file", str(part)]
    # The URL of a ledger holds no password; libpq takes one from the environment or a file.
    _run("pg_dump", [*words, "--dbname", url.set(drivername="postgresql").render_as_string(hide_password=False)])


def _text_of(file: Path) -> str:
    return _run("pg_restore", ["--data-only", "--file=-", str(file)])


def _run(program: str, words: list[str]) -> str:
    """Return what a program of PostgreSQL prints.

    Raises:
        LedgerError: it is not installed, or fails.
    """
    if shutil.which(program) is None:
        raise schema.LedgerError(f"{program} is not installed", fix="apt-get install postgresql-client")
    done = subprocess.run(ending_with_us([program, *words]), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[:300]
        raise schema.LedgerError(
            f"{program} failed: {said}", fix="check that the server runs, and the version of its tools"
        )
    return done.stdout
