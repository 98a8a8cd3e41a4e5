"""The database that a restore writes to: the ledger's own, or a new file in place of a damaged one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.file_rights import make_folders, private_file, refuse_if_others_may_change
from privacy_pipeline.ledger.opening import use_write_ahead_log
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.ledger.storage.older_formats import READABLE
from privacy_pipeline.ledger.storage.tables import SCHEMA_VERSION, metadata


@contextmanager
def target(url: sa.URL, *, write: bool) -> Iterator[tuple[sa.Engine, bool, Path | None]]:
    """Yield the database to write to, whether a ledger can be read there, and where a damaged one is moved to.

    A SQLite file that cannot be used is replaced by a new one that is whole before it has the ledger's name. One that
    can is written in place: others may have it open.
    """
    file, engine = schema.sqlite_file(url), schema.connect(url)
    usable = _is_usable(engine)
    if file is None or usable:
        if file is not None:
            refuse_if_others_may_change(file, own=True)
        yield engine, usable, None
        return
    make_folders(file.parent)
    refuse_if_others_may_change(file, own=True)
    made = file.with_name(f".{file.name}.restoring")
    aside = file.with_name(f"{file.name}.damaged-{uuid.uuid4().hex[:8]}") if file.exists() else None
    try:
        _forget(made)
        private_file(made)
        fresh = schema.connect(sa.URL.create("sqlite", database=str(made)))
        yield fresh, False, aside
        if write:
            fresh.dispose()
            for end in ("", "-wal", "-shm"):
                one = file.with_name(file.name + end)
                if aside is not None and one.exists():
                    one.rename(aside.with_name(aside.name + end))
                else:
                    one.unlink(missing_ok=True)  # of a file that is gone: it would be taken for the new one's
            os.replace(made, file)
            use_write_ahead_log(engine)
    finally:
        _forget(made)


def _forget(made: Path) -> None:
    """Remove what an attempt made, with the journal that a kill leaves."""
    for end in ("", "-journal"):
        made.with_name(made.name + end).unlink(missing_ok=True)


def _is_usable(engine: sa.Engine) -> bool:
    """Return whether there is a ledger whose tables can all be read; a server's database that holds none is usable too.

    Raises:
        BadInputError: it has an older format.
        LedgerError: the server cannot be reached.
    """
    file = schema.sqlite_file(engine.url)
    if file is not None and not file.is_file():
        return False
    try:
        with schema.transaction(engine, write=False) as connection:
            if not sa.inspect(connection).has_table(schema.journal.name):
                return file is None
            found = schema.stored_format(connection)
            if found in READABLE:
                raise BadInputError(f"the present ledger has format {found}", fix="budget migrate, first")
            for table in metadata.sorted_tables:
                for _ in connection.execute(sa.select(table), execution_options={"yield_per": 1000}):
                    pass
    except schema.LedgerError:
        if file is None:
            raise
        return False
    return found == SCHEMA_VERSION
