"""Opening a ledger: making a new one, and bringing an older one to this format."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import sqlalchemy as sa

from privacy_pipeline.accounting import journal, keys
from privacy_pipeline.accounting import ledger_schema as schema
from privacy_pipeline.accounting.ledger_schema import REGISTER_FIX, LedgerError
from privacy_pipeline.accounting.ledger_tables import SCHEMA_VERSION, metadata, version
from privacy_pipeline.errors import BadInputError

_OLDER = ("1", "2")


def open_engine(url: str, *, create: bool) -> sa.Engine:
    """Connects to a ledger, and with `create` makes one, with its key, where there is none.

    A ledger of an older format is brought to this one, in one transaction; its key is made then.

    Raises:
        BadInputError: the URL is not usable, or there is no ledger and `create` is not set.
        LedgerError: the database cannot be used, or is of another version.
    """
    parsed = schema.parse(url)
    missing = BadInputError(f"there is no ledger at {schema.name(parsed)}", fix=REGISTER_FIX)
    file = schema.sqlite_file(parsed)
    if file is not None and not create and not file.is_file():
        raise missing
    engine = schema.connect(parsed)
    if create:
        _create(engine, file)
    with schema.transaction(engine, write=False) as connection:
        if not sa.inspect(connection).has_table(schema.meta.name):
            raise missing
        found = _version(connection)
    if found in _OLDER:
        found = _upgrade(engine)
    if found != SCHEMA_VERSION:
        raise LedgerError(f"ledger {schema.name(parsed)} has format {found}; this version reads {SCHEMA_VERSION}")
    return engine


def _version(connection: sa.Connection) -> str | None:
    table = schema.meta
    return connection.scalar(sa.select(table.c.value).where(table.c.key == "schema_version"))


def _upgrade(engine: sa.Engine) -> str | None:
    """Brings an older ledger to this format in one transaction; who comes second finds it done.

    Returns:
        The format that the ledger has now.
    """
    with schema.transaction(engine, write=True) as connection:
        if (found := _version(connection)) in _OLDER:
            from privacy_pipeline.accounting.migrations.migrate import migrate

            migrate(connection, url=engine.url, since=str(found))
            table = schema.meta
            connection.execute(table.update().where(table.c.key == "schema_version").values(value=SCHEMA_VERSION))
        return _version(connection)


def _create(engine: sa.Engine, file: Path | None) -> None:
    try:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        name = schema.name(engine.url)
        raise LedgerError(f"ledger {name}: {error}", fix="choose a folder that can be written") from error
    with schema.transaction(engine, write=True) as connection:
        if not sa.inspect(connection).has_table(schema.meta.name):
            key = keys.create(keys.key_file(engine.url))
            metadata.create_all(connection)
            connection.execute(schema.meta.insert().values(key="schema_version", value=SCHEMA_VERSION))
            connection.execute(version.insert().values(version_num=SCHEMA_VERSION))
            journal.begin(connection, key)
    if file is not None:
        _use_write_ahead_log(engine)


def _use_write_ahead_log(engine: sa.Engine) -> None:
    """Sets the file's journal mode once; it stays. Outside a transaction, as SQLite demands.

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
