"""The ledger's database: how it is connected to, and its transactions.

SQLite (write-ahead log, every commit synced to disk, BEGIN IMMEDIATE) or PostgreSQL (one advisory lock for all
writers, synchronous commit). Either way there is one writer at a time, and what a transaction wrote is on disk when it
returns. The SQLite file belongs on a local disk: the write-ahead log does not work over network file systems.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DisconnectionError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.ledger.storage import older_formats
from privacy_pipeline.ledger.storage.tables import (
    budgets,
    charges,
    entries,
    journal,
    meta,
    registrations,
    unit_digests,
)
from privacy_pipeline.text import secret_text

__all__ = [
    "REGISTER_FIX",
    "LedgerError",
    "budgets",
    "charges",
    "connect",
    "entries",
    "journal",
    "meta",
    "name",
    "name_of",
    "parse",
    "read_as_older",
    "registrations",
    "sqlite_file",
    "stored_format",
    "transaction",
    "unit_digests",
]
REGISTER_FIX = "privacy-pipeline budget register CONFIG"
WAIT_SECONDS = 60
_OLDER = "ledger_older"
_OPTIONS = frozenset(("uri", "timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements"))
# A host that is cut off from its server, or a server from a host, sends nothing: both notice that within half a minute,
# and the server lets go of the lock of writers, which others may wait for `WAIT_SECONDS`. A process that was stopped
# in the middle of a transaction answers for ever; its transaction does not last for ever.
_ALIVE = {
    "connect_timeout": 30,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_LET_GO = """
SELECT set_config(pg_settings.name, wanted.value, false) FROM pg_settings JOIN (VALUES
  ('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '3'),
  ('tcp_user_timeout', '30000'), ('idle_in_transaction_session_timeout', '600000')
) AS wanted (name, value) ON pg_settings.name = wanted.name
"""
_LOCK = 7246392117320001  # any constant: the advisory lock that serialises the ledger's writers


class LedgerError(PipelineError):
    """The ledger cannot be read or written; nothing is granted."""


def parse(url: str) -> sa.URL:
    """Return a ledger's URL.

    Raises:
        BadInputError: it is not a SQLAlchemy URL of a file or server that the ledger can be in, or holds a password.
    """
    given: object = url
    if not isinstance(given, str):
        raise BadInputError(f"ledger: {type(given).__name__} is not a SQLAlchemy URL", fix="sqlite:///ledger/ledger.db")
    if secret_text.found_in_url(url):
        raise BadInputError("ledger: its URL holds a password, which every copy of the URL would", fix=secret_text.HOW)
    try:
        parsed = sa.make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError):
        # What stands behind the scheme may be a password in the wrong place.
        shown = re.sub(r"(:/{0,2})(?!/).*", r"\1...", url, flags=re.DOTALL)
        raise BadInputError(f"ledger: {shown!r} is not a SQLAlchemy URL", fix="sqlite:///ledger/ledger.db") from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise BadInputError(
            f"ledger: {parsed.get_backend_name()} is not supported; use sqlite or postgresql",
            fix="sqlite:///ledger/ledger.db",
        )
    if parsed.get_backend_name() == "postgresql" and parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "sqlite":
        _check_file(parsed, url)
    return parsed


def _check_file(parsed: sa.URL, url: str) -> None:
    if parsed.host or parsed.port or parsed.username:
        raise BadInputError(
            f"ledger: {url!r} names a host, and SQLite's file is on this one",
            fix="sqlite:///FILE, or sqlite:////ABSOLUTE/FILE",
        )
    if ("?" in url and not parsed.query) or (not _is_uri(parsed) and not _OPTIONS.issuperset(parsed.query)):
        raise BadInputError(
            f"ledger: what stands behind the ? in {url!r} is not an option of SQLite",
            fix="a ? of the path itself is written as in sqlite:///file:is%3Fit/ledger.db?uri=true",
        )
    if sqlite_file(parsed) is None:
        raise BadInputError("ledger: a database in memory forgets what was spent", fix="sqlite:///ledger/ledger.db")


def sqlite_file(url: sa.URL) -> Path | None:
    """Return the database's file; None for one in memory or on a server."""
    if url.get_backend_name() != "sqlite":
        return None
    name = url.database or ""
    if _is_uri(url):
        name = unquote(name.removeprefix("file:").partition("#")[0])
        if name.startswith("//"):  # file://HOST/FILE
            name = name[name.find("/", 2) :]
    in_memory = not name or ":memory:" in name or url.query.get("mode") == "memory"
    return None if in_memory else Path(name)


def _is_uri(url: sa.URL) -> bool:
    """Return whether SQLite takes the database's name for a URI, in which `%` spells characters."""
    given = url.query.get("uri", "")
    return isinstance(given, str) and given.lower() in ("true", "yes", "on", "y", "t", "1")


def _on_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    for pragma in ("synchronous=FULL", "fullfsync=ON", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("ledger_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
    _show_older(connection, write=write)


def _show_older(connection: sa.Connection, *, write: bool) -> None:
    """Let a ledger that had an older format when it was opened be read as it is now."""
    options = connection.get_execution_options()
    rules = options.get(_OLDER)
    if rules is not None:
        older_formats.hide(connection)
        if not write and stored_format(connection) in older_formats.READABLE:
            older_formats.show(connection, as_stored=options.get("ledger_as_stored", False), rules=rules)


def _on_connect_to_server(connection: Any, record: Any) -> None:
    record.info["pid"] = os.getpid()
    before, connection.autocommit = connection.autocommit, True  # a setting of a transaction goes with it
    connection.execute(_LET_GO)
    connection.autocommit = before


def _refuse_inherited(_connection: Any, record: Any, proxy: Any) -> None:
    """Refuse a connection that came through a fork: it is its parent's, and the pool then opens another one."""
    if record.info["pid"] != os.getpid():
        record.dbapi_connection = proxy.dbapi_connection = None
        raise DisconnectionError("the connection belongs to another process")


def _begin_postgresql(connection: sa.Connection) -> None:
    if not connection.get_execution_options().get("ledger_write", False):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        _show_older(connection, write=False)
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        return
    # Read committed, so that what is read after the lock was waited for is what the last writer left.
    connection.exec_driver_sql(
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit TO on; "
        f"SET LOCAL lock_timeout TO '{WAIT_SECONDS}s'"
    )
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    _show_older(connection, write=True)


def connect(url: sa.URL) -> sa.Engine:
    """Return an engine; nothing is connected yet."""
    if url.get_backend_name() == "sqlite":
        # No pool: connections do not survive a fork, and a new one costs next to nothing.
        engine = sa.create_engine(url, poolclass=NullPool, connect_args={"timeout": WAIT_SECONDS})
        sa.event.listen(engine, "connect", _on_connect)
        sa.event.listen(engine, "begin", _begin_sqlite)
    else:
        # Kept open, because a new connection costs the server more than a reservation.
        alive = {name: value for name, value in _ALIVE.items() if name not in url.query}
        engine = sa.create_engine(url, pool_size=1, pool_pre_ping=True, connect_args=alive)
        sa.event.listen(engine, "connect", _on_connect_to_server)
        sa.event.listen(engine, "checkout", _refuse_inherited)
        sa.event.listen(engine, "begin", _begin_postgresql)
    return engine


def stored_format(connection: sa.Connection) -> str | None:
    """Return the format of the ledger from its table of settings."""
    return connection.scalar(sa.select(meta.c.value).where(meta.c.key == "schema_version"))


def read_as_older(engine: sa.Engine, *, rules: older_formats.Rules) -> None:
    """Note that the ledger had an older format when it was opened.

    Args:
        engine: the ledger's engine.
        rules: what a migration would record of its budgets.
    """
    engine.update_execution_options(**{_OLDER: rules})


def name_of(url: str) -> str:
    """Return the same for a URL as it is written in a config."""
    return name(parse(url))


def name(url: sa.URL) -> str:
    """Return the URL without its password, for messages."""
    return secret_text.masked(url.render_as_string(hide_password=True))


@contextmanager
def transaction(engine: sa.Engine, *, write: bool, as_stored: bool = False) -> Iterator[sa.Connection]:
    """Open one transaction; on leaving it without an exception, what was written is on disk.

    Args:
        engine: the ledger's engine.
        write: take the single writer's lock first.
        as_stored: read a ledger of an older format as its last writer left it, without the rules that a migration
            would record.

    Raises:
        LedgerError: the database is locked for too long, full, read-only, corrupt or gone. Nothing was granted.
    """
    try:
        options = {"ledger_write": write, "ledger_as_stored": as_stored}
        with engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection
    except (SQLAlchemyError, OSError) as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()
        raise LedgerError(
            f"ledger {name(engine.url)}: {cause[0] if cause else type(error).__name__}",
            fix="nothing was granted; check that the file is a ledger, is writable, and that its disk has room",
        ) from error
