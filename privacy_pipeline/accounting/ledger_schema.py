"""Tables of the budget ledger, how its database is opened, and its transactions.

SQLite (write-ahead log, every commit synced to disk, BEGIN IMMEDIATE) or PostgreSQL (one advisory lock for all
writers, synchronous commit). Either way there is one writer at a time, and what a transaction wrote is on disk when it
returns. The SQLite file belongs on a local disk: the write-ahead log does not work over network file systems.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from privacy_pipeline.errors import BadInputError, PipelineError

SCHEMA_VERSION = "2"
REGISTER_FIX = "privacy-pipeline budget register CONFIG"
_WAIT_SECONDS = 60
# Version of a ledger -> the next one, and the statement that leads there.
_UPGRADES = {
    "1": ("2", "ALTER TABLE entries ADD COLUMN total_variation DOUBLE PRECISION NOT NULL DEFAULT 0"),
}
_LOCK = 7246392117320001  # any constant: the advisory lock that serialises the ledger's writers

metadata = sa.MetaData()
meta = sa.Table(
    "ledger_meta",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
registrations = sa.Table(
    "registrations",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("dataset", sa.String(64), nullable=False),
    sa.Column("span_key", sa.String(32), nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("contribution_bound", sa.Integer, nullable=False),
    sa.Column("relation", sa.String(32), nullable=False),
    sa.Column("splits", sa.Text, nullable=False),
    sa.Column("columns", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, index=True),
    sa.Column("registered", sa.String(40), nullable=False),
    sa.UniqueConstraint("dataset", "span_key"),
)
budgets = sa.Table(
    "budgets",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("dataset", sa.String(64), nullable=False),
    sa.Column("split", sa.String(32), nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("relation", sa.String(32), nullable=False),
    sa.Column("epsilon", sa.Float(53), nullable=False),
    sa.Column("delta", sa.Float(53), nullable=False),
    sa.Column("filter_order", sa.Float(53)),
    sa.Column("cap_changes", sa.Integer, nullable=False, default=0),
    sa.UniqueConstraint("dataset", "split"),
)
entries = sa.Table(
    "entries",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("budget_id", sa.ForeignKey("budgets.id"), nullable=False, index=True),
    sa.Column("span_key", sa.String(32), nullable=False),
    sa.Column("data_digest", sa.String(64), nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("node", sa.Text, nullable=False),
    sa.Column("plan_key", sa.String(64), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("token", sa.String(32), nullable=False),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("executed_event", sa.Text),
    sa.Column("orders_version", sa.Integer, nullable=False),
    sa.Column("rdp", sa.Text, nullable=False),
    sa.Column("total_variation", sa.Float(53), nullable=False, server_default="0"),  # since version 2
    sa.Column("overrun", sa.Boolean, nullable=False, default=False),
    sa.Column("reserved_at", sa.String(40), nullable=False),
    sa.Column("started_at", sa.String(40)),
    sa.Column("committed_at", sa.String(40)),
    sa.Column("expired_at", sa.String(40)),
    sa.UniqueConstraint("run_id", "node", "plan_key", "attempt"),
    sa.CheckConstraint("state IN ('reserved', 'started', 'committed', 'expired')", name="known_state"),
    # Ids are never used twice: the order of ids is the order of reservations.
    sqlite_autoincrement=True,
)


class LedgerError(PipelineError):
    """The ledger cannot be read or written; nothing is granted."""


def _parse(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        raise BadInputError(f"ledger: {url!r} is no SQLAlchemy URL", fix="sqlite:///ledger/ledger.db") from error
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise BadInputError(
            f"ledger: {parsed.get_backend_name()} is not supported; use sqlite or postgresql",
            fix="sqlite:///ledger/ledger.db",
        )
    if parsed.get_backend_name() == "postgresql" and parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "sqlite" and _file(parsed) is None:
        raise BadInputError("ledger: a database in memory forgets what was spent", fix="sqlite:///ledger/ledger.db")
    return parsed


def _file(url: sa.URL) -> Path | None:
    name = (url.database or "").removeprefix("file:")
    in_memory = not name or ":memory:" in name or url.query.get("mode") == "memory"
    return None if in_memory else Path(name)


def _on_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    for pragma in ("synchronous=FULL", "fullfsync=ON", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("ledger_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _begin_postgresql(connection: sa.Connection) -> None:
    if not connection.get_execution_options().get("ledger_write", False):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return
    # Read committed, so that what is read after the lock was waited for is what the last writer left.
    connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
    connection.exec_driver_sql("SET LOCAL synchronous_commit TO on")
    connection.exec_driver_sql(f"SET LOCAL lock_timeout TO '{_WAIT_SECONDS}s'")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def _engine(url: sa.URL) -> sa.Engine:
    # No pool: connections do not survive a fork, and a ledger makes a handful of transactions a run.
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(url, poolclass=NullPool, connect_args={"timeout": _WAIT_SECONDS})
        sa.event.listen(engine, "connect", _on_connect)
        sa.event.listen(engine, "begin", _begin_sqlite)
    else:
        engine = sa.create_engine(url, poolclass=NullPool)
        sa.event.listen(engine, "begin", _begin_postgresql)
    return engine


def _name(url: sa.URL) -> str:
    return url.render_as_string(hide_password=True)


@contextmanager
def transaction(engine: sa.Engine, *, write: bool) -> Iterator[sa.Connection]:
    """One transaction; on leaving it without an exception, what was written is on disk.

    Args:
        engine: the ledger's engine.
        write: takes the single writer's lock first.

    Raises:
        LedgerError: the database is locked for too long, full, read-only, corrupt or gone. Nothing was granted.
    """
    try:
        with engine.connect().execution_options(ledger_write=write) as connection, connection.begin():
            yield connection
    except (SQLAlchemyError, OSError) as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()
        raise LedgerError(
            f"ledger {_name(engine.url)}: {cause[0] if cause else type(error).__name__}",
            fix="nothing was granted; check that the file is a ledger, is writable, and that its disk has room",
        ) from error


def open_engine(url: str, *, create: bool) -> sa.Engine:
    """Connects to a ledger, and with `create` makes one where there is none.

    Raises:
        BadInputError: the URL is not usable, or there is no ledger and `create` is not set.
        LedgerError: the database cannot be used, or is of another version.
    """
    parsed = _parse(url)
    missing = BadInputError(f"there is no ledger at {_name(parsed)}", fix=REGISTER_FIX)
    file = _file(parsed) if parsed.get_backend_name() == "sqlite" else None
    if file is not None and not create and not file.is_file():
        raise missing
    engine = _engine(parsed)
    if create:
        _create(engine, file)
    with transaction(engine, write=False) as connection:
        if not sa.inspect(connection).has_table(meta.name):
            raise missing
        version = connection.scalar(sa.select(meta.c.value).where(meta.c.key == "schema_version"))
    if version in _UPGRADES:
        version = _upgrade(engine)
    if version != SCHEMA_VERSION:
        raise LedgerError(f"ledger {_name(parsed)} has format {version}; this version reads {SCHEMA_VERSION}")
    return engine


def _upgrade(engine: sa.Engine) -> str | None:
    """Brings an older ledger to this version in one transaction; who comes second finds it done.

    Returns:
        The version that the ledger has now.
    """
    with transaction(engine, write=True) as connection:
        known = sa.select(meta.c.value).where(meta.c.key == "schema_version")
        while (version := connection.scalar(known)) in _UPGRADES:
            successor, statement = _UPGRADES[version]
            connection.exec_driver_sql(statement)
            connection.execute(meta.update().where(meta.c.key == "schema_version").values(value=successor))
    return version


def _create(engine: sa.Engine, file: Path | None) -> None:
    try:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerError(f"ledger {_name(engine.url)}: {error}", fix="choose a folder that can be written") from error
    with transaction(engine, write=True) as connection:
        if not sa.inspect(connection).has_table(meta.name):
            metadata.create_all(connection)
            connection.execute(meta.insert().values(key="schema_version", value=SCHEMA_VERSION))
    if file is not None:
        _use_write_ahead_log(engine)


def _use_write_ahead_log(engine: sa.Engine) -> None:
    """Sets the file's journal mode once; it stays. Outside a transaction, as SQLite demands.

    SQLite does not wait for the lock that this takes, so processes that create a ledger at once try again.
    """
    deadline = time.monotonic() + _WAIT_SECONDS
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
                raise LedgerError(f"ledger {_name(engine.url)}: {error}") from error
            time.sleep(0.05)
