"""Moves a ledger to another database: all of it, under the same key, with a record of the move in both journals.

The old one is closed first and grants nothing any more; the new one begins as its copy. Should the copy be broken off,
the same call makes it again. Pins (`pins`) follow, since the journal goes on.
"""

from __future__ import annotations

import sqlalchemy as sa

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import write_bytes_atomically
from privacy_pipeline.files.file_rights import make_folders, refuse_if_others_may_change
from privacy_pipeline.ledger import write_transactions
from privacy_pipeline.ledger.migrations.columns import number_on
from privacy_pipeline.ledger.opening import open_engine, use_write_ahead_log
from privacy_pipeline.ledger.storage import journal, keys, schema
from privacy_pipeline.ledger.storage.digest_secret import secret_file
from privacy_pipeline.ledger.storage.journal import MOVED_FROM, MOVED_TO
from privacy_pipeline.ledger.storage.tables import SCHEMA_VERSION, metadata

_BATCH = 1000


def move(source: str, target: str) -> None:
    """Move a ledger.

    Args:
        source: SQLAlchemy URL of the ledger.
        target: URL of a database that holds no ledger.

    Raises:
        BadInputError: there is no ledger to move, it was moved elsewhere, or the target holds one.
        LedgerError: a database cannot be read or written, or the ledger does not verify.
    """
    old, new = open_engine(source, create=False), schema.connect(schema.parse(target))
    _require_empty(new)
    _close(old, schema.name(new.url))
    _take_keys(old.url, new.url)
    with schema.transaction(old, write=False) as read, schema.transaction(new, write=True) as write:
        metadata.create_all(write)
        for table in metadata.sorted_tables:
            copy_table(read, write, table)
        number_on(write, "registrations", "budgets", "entries")
        moved = write_transactions.writer(write, new.url, arriving=True)
        moved.append(MOVED_FROM, {"from": schema.name(old.url)})
    if schema.sqlite_file(new.url) is not None:
        use_write_ahead_log(new)


def _require_empty(engine: sa.Engine) -> None:
    file = schema.sqlite_file(engine.url)
    if file is not None:
        make_folders(file.parent)
        refuse_if_others_may_change(file, own=True)  # else the copy is refused, when the old ledger is closed
    with schema.transaction(engine, write=False) as connection:
        if sa.inspect(connection).has_table(schema.meta.name):
            raise BadInputError(
                f"there is a ledger at {schema.name(engine.url)}", fix="name a database that holds none"
            )


def _close(engine: sa.Engine, target: str) -> None:
    """Write the last record of the old ledger, unless an earlier call did."""
    with schema.transaction(engine, write=False) as connection:
        closed = journal.moved_to(connection)
    if closed is None:
        with write_transactions.writing(engine) as writer:
            writer.append(MOVED_TO, {"to": target})
    elif closed != target:
        raise BadInputError(f"this ledger was moved to {closed}", fix=f"--ledger {closed}")


def _take_keys(old: sa.URL, new: sa.URL) -> None:
    """Copy the signing key and the secret of digests, where they lie beside the database."""
    here, there = keys.key_file(old), keys.key_file(new)
    if here == there:
        return
    pairs = [(here, there), (keys.public_file(here), keys.public_file(there)), (secret_file(old), secret_file(new))]
    for source, target in pairs:
        if source.is_file() and not target.exists():
            write_bytes_atomically(path=target, content=source.read_bytes())


def copy_table(read: sa.Connection, write: sa.Connection, table: sa.Table) -> None:
    """Copy all rows of a table of a ledger to another one, which has none.

    Raises:
        LedgerError: the ledger has an older format.
    """
    ordered = sa.select(table).order_by(*table.primary_key.columns)
    rows = read.execute(ordered, execution_options={"yield_per": _BATCH}).mappings()
    for batch in rows.partitions(_BATCH):
        write.execute(table.insert(), [dict(row) for row in batch])
    if table is schema.meta:
        version = sa.select(table.c.value).where(table.c.key == "schema_version")
        if write.scalar(version) != SCHEMA_VERSION:
            raise schema.LedgerError(
                f"the ledger has an older format than {SCHEMA_VERSION}", fix="budget migrate, first"
            )
