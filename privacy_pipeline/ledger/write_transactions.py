"""Write transactions of a ledger: its end is checked and a ledger of an older format is brought to this one first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from privacy_pipeline.ledger.storage import high_water, keys, schema
from privacy_pipeline.ledger.storage.journal import (
    LOST,
    ROTATE,
    VERIFY,
    Head,
    Writer,
    current_key,
    moved_to,
    read_head,
    trusted_state,
)
from privacy_pipeline.ledger.storage.keys import SigningKey
from privacy_pipeline.ledger.storage.tables import SCHEMA_VERSION

_LAST = sa.select(schema.journal.c.seq, schema.journal.c.hash).order_by(schema.journal.c.seq.desc()).limit(1)


@contextmanager
def writing(engine: sa.Engine) -> Iterator[Writer]:
    """Open a write transaction with the journal to append to.

    Raises:
        LedgerError: the ledger cannot be written, its key is missing or another one, the journal does not end with the
            record that its head names, or budgets or registrations are not what the last writer left.
    """
    with schema.transaction(engine, write=True) as connection:
        journal = writer(connection, engine.url)
        yield journal
    journal.note_committed()


def writer(connection: sa.Connection, url: sa.URL, *, key: SigningKey | None = None, arriving: bool = False) -> Writer:
    """Go on with the journal of a ledger.

    Args:
        connection: a write transaction.
        url: the ledger's URL, which determines where the key is.
        key: signs in place of the ledger's own key, which is lost.
        arriving: whether it is the copy of a ledger that was just moved here.

    Raises:
        LedgerError: see `writing`.
    """
    if not arriving:
        _require_here(connection)
    since = schema.stored_format(connection)
    head = checked_head(connection, since=since)
    mark = high_water.require(connection, url, present=current_key(connection))
    signing = key or keys.load(keys.key_file(url), expected=head.key_id)
    if not arriving:
        _remove_unknown_keys(url, known=signing.public.id)
    found = Writer(connection, signing, seq=head.seq, last_hash=head.hash, mark=mark)
    _settle(found, since)
    return found


def _settle(journal: Writer, since: str | None) -> None:
    if since != SCHEMA_VERSION:
        from privacy_pipeline.ledger.migrate import settle

        settle(journal)


def _require_here(connection: sa.Connection) -> None:
    target = moved_to(connection)
    if target is not None:
        raise schema.LedgerError(f"this ledger was moved to {target}; nothing was written", fix=f"ledger: {target}")


def checked_head(connection: sa.Connection, *, since: str | None) -> Head:
    """Return the head; it is signed by the key that the ledger names, is the journal's last record, and fits the
    tables.

    A ledger of an older format is verified as a whole and brought to this one; `migrate.settle` has to follow.

    Args:
        connection: a write transaction.
        since: format of the ledger as it is stored.

    Raises:
        LedgerError: somebody edited the ledger.
    """
    head, key = read_head(connection), current_key(connection)
    last = connection.execute(_LAST).first()
    if last is None or (last.seq, last.hash) != (head.seq, head.hash):
        raise schema.LedgerError(
            f"the journal does not end with record {head.seq}, which its head names; nothing was written", fix=VERIFY
        )
    if head.key_id != key.id or not key.verifies(head.signature, head.message):
        raise schema.LedgerError("the head of the journal is not signed by the ledger's key", fix=VERIFY)
    if since != "3" and head.state != trusted_state(connection, since=since):
        raise schema.LedgerError(
            "budgets or registrations were changed by somebody other than the ledger; nothing was written", fix=VERIFY
        )
    if since != SCHEMA_VERSION:
        from privacy_pipeline.ledger.migrate import migrate

        migrate(connection, since=str(since))
    return head


def rotate(engine: sa.Engine, *, lost: bool) -> tuple[str, str]:
    """Give the ledger a new key; the file of the old one is replaced.

    Args:
        engine: the ledger's engine.
        lost: the present key is lost. The change is signed by the new key alone, and `verify` fails from then on
            unless it is given that key as accepted.

    Returns:
        Ids of the old and the new key.

    Raises:
        LedgerError: the key cannot be used; with `lost`, it is there and can; or the ledger cannot be written.
    """
    path, key = keys.key_file(engine.url), keys.generate()
    successor = keys.successor_file(path, key.public.id)
    try:
        with schema.transaction(engine, write=True) as connection:
            _require_here(connection)
            since = schema.stored_format(connection)
            head = checked_head(connection, since=since)
            mark = high_water.require(connection, engine.url, present=current_key(connection))
            present = _present(path, head.key_id) if lost else keys.load(path, expected=head.key_id)
            if lost and present is not None:
                raise schema.LedgerError(f"key {head.key_id} is not lost: it is in {path}", fix="rotate without --lost")
            _remove_unknown_keys(engine.url, known=head.key_id)
            keys.store(successor, key)
            signing = key if present is None else present
            journal = Writer(connection, signing, seq=head.seq, last_hash=head.hash, mark=mark)
            body = {"public_key": key.public.hex, "lost" if lost else "replaces": head.key_id}
            journal.append(LOST if lost else ROTATE, body, then=key)
            _settle(journal, since)
    except schema.LedgerError:
        successor.unlink(missing_ok=True)
        raise
    keys.install(path, key.public.id)
    journal.note_committed()
    return head.key_id, key.public.id


def _remove_unknown_keys(url: sa.URL, *, known: str) -> None:
    keys.remove_unknown(keys.key_file(url), ledger=schema.sqlite_file(url), known=known)


def _present(path: Path, expected: str) -> SigningKey | None:
    try:
        return keys.load(path, expected=expected)
    except schema.LedgerError:
        return None
