"""Opening a ledger: making a new one, and bringing an older one to this format."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.files.file_rights import make_folders, private_file, refuse_if_others_may_change
from privacy_pipeline.ledger import write_transactions
from privacy_pipeline.ledger.state.earlier_rules import fixed_rules
from privacy_pipeline.ledger.storage import journal, keys, schema
from privacy_pipeline.ledger.storage.keys import SigningKey
from privacy_pipeline.ledger.storage.older_formats import READABLE
from privacy_pipeline.ledger.storage.schema import REGISTER_FIX, LedgerError
from privacy_pipeline.ledger.storage.tables import SCHEMA_VERSION, metadata, version

_UNSIGNED = ("1", "2")  # formats that had neither key nor journal


def open_engine(url: str, *, create: bool, existing_key: bool = False, accept: bool = False) -> sa.Engine:
    """Connect to a ledger; with `create`, make one, with its key, where there is none.

    A ledger of format 1 or 2 is brought to this one, in one transaction; its key is made then. Where there is a key
    already, the database is not the one that the key signed: neither is a new ledger made nor an old one imported.

    Args:
        url: SQLAlchemy URL.
        create: make the ledger where there is none.
        existing_key: a new ledger takes the key that is there.
        accept: import an old ledger under the key that is there, for a caller who knows that it is the right one.

    Raises:
        BadInputError: the URL is not usable, or there is no ledger and `create` is not set.
        LedgerError: the database cannot be used, is of another version, or a key is there without its ledger.
    """
    parsed = schema.parse(url)
    file = schema.sqlite_file(parsed)
    if file is not None and not create and not file.is_file():
        raise _missing(parsed)
    if file is not None:
        for end in ("", "-wal", "-shm", "-journal"):  # SQLite takes what it finds in them for the ledger's
            refuse_if_others_may_change(file.with_name(file.name + end), own=True)
    engine = schema.connect(parsed)
    if create:
        _create(engine, file, existing_key=existing_key)
    with schema.transaction(engine, write=False) as connection:
        if not sa.inspect(connection).has_table(schema.meta.name):
            raise _missing(parsed)
        found = schema.stored_format(connection)
    if found in _UNSIGNED:
        found = _import(engine, accept=accept)
    if found in READABLE:  # read as it is, and brought to this format by the first write
        schema.read_as_older(engine, rules=fixed_rules)
    elif found != SCHEMA_VERSION:
        raise LedgerError(f"ledger {schema.name(parsed)} has format {found}; this version reads {SCHEMA_VERSION}")
    return engine


def _missing(url: sa.URL) -> PipelineError:
    """Return the error where there is no ledger; a ledger that is gone does not allow a new one with nothing spent."""
    if found := keys.traces(url):
        return _gone(url, found[0])
    return BadInputError(f"there is no ledger at {schema.name(url)}", fix=REGISTER_FIX)


def _gone(url: sa.URL, trace: Path) -> LedgerError:
    return LedgerError(
        f"{trace} is here, but its ledger is gone: there is none at {schema.name(url)}",
        fix="restore the ledger from a copy. For a ledger of its own, with nothing spent: another folder, or move the "
        "key and its .pub away; with a key that was made for it: budget register --existing-key",
    )


def _import(engine: sa.Engine, *, accept: bool) -> str | None:
    """Bring a ledger of format 1 or 2 to this format in one transaction; a process that comes second finds it done.

    Returns:
        The format that the ledger has now.
    """
    path = keys.key_file(engine.url)
    with _first_key(path) as made, schema.transaction(engine, write=True) as connection:
        if (found := schema.stored_format(connection)) in _UNSIGNED:
            if (traces := keys.traces(engine.url)) and not accept:
                raise LedgerError(
                    f"ledger {schema.name(engine.url)} has format {found}, which had no key, but {traces[0]} is here: "
                    "this is not the database that the key signed",
                    fix="restore the ledger from a copy; only if this is the right one: privacy-pipeline budget migrate"
                    " --accept",
                )
            from privacy_pipeline.ledger.migrate import migrate, settle

            key = keys.first(path, existing=path.exists())
            made.append(key)
            migrate(connection, since=str(found), key=key)
            settle(write_transactions.writer(connection, engine.url, key=key))
        found = schema.stored_format(connection)
    return found


@contextmanager
def _first_key(path: Path) -> Iterator[list[SigningKey]]:
    """Collect the key that a transaction makes: it is put in its place once the ledger records it, else removed."""
    made: list[SigningKey] = []
    before = keys.waiting(path)
    try:
        yield made
    except PipelineError:
        for key in made:
            file = keys.successor_file(path, key.public.id)
            if file not in before:
                file.unlink(missing_ok=True)
        raise
    for key in made:
        keys.install(path, key.public.id)


def _create(engine: sa.Engine, file: Path | None, *, existing_key: bool) -> None:
    try:
        if file is not None:
            make_folders(file.parent)
            refuse_if_others_may_change(file, own=True)
            private_file(file)
    except OSError as error:
        name = schema.name(engine.url)
        raise LedgerError(f"ledger {name}: {error}", fix="choose a folder that can be written") from error
    path = keys.key_file(engine.url)
    with _first_key(path) as made, schema.transaction(engine, write=True) as connection:
        if not sa.inspect(connection).has_table(schema.meta.name):
            if (traces := keys.traces(engine.url)) and not existing_key:
                raise _gone(engine.url, traces[0])
            key = keys.first(path, existing=existing_key)
            made.append(key)
            metadata.create_all(connection)
            connection.execute(schema.meta.insert().values(key="schema_version", value=SCHEMA_VERSION))
            connection.execute(version.insert().values(version_num=SCHEMA_VERSION))
            journal.begin(connection, key)
    if file is not None:
        use_write_ahead_log(engine)


def use_write_ahead_log(engine: sa.Engine) -> None:
    """Set the file's journal mode once; it stays. Outside a transaction, as SQLite demands.

    SQLite does not wait for the lock that this takes, so processes that create a ledger at once try again.
    """
    deadline = time.monotonic() + schema.WAIT_SECONDS
    while True:
        try:
            connection = engine.raw_connection()
            try:
                connection.cursor().execute("PRAGMA journal_mode=WAL")
            finally:
                connection.close()
            return
        except sqlite3.Error as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise LedgerError(f"ledger {schema.name(engine.url)}: {error}") from error
            time.sleep(0.05)
