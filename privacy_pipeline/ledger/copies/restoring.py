"""Put a ledger back from a backup, so that it never shows less than was spent.

A ledger goes only forward. What the present one recorded after the backup is carried over, word by word, where its
journal can be read and is all that this host has seen. Where that is not known, something may have been spent that no
record is left of, so every budget is charged without limit: it grants nothing any more. All of it is one transaction.
"""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from privacy_pipeline.accounting.renyi import ORDERS
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.audit.verify import tampering
from privacy_pipeline.ledger.charging import charges, entries
from privacy_pipeline.ledger.charging.entries import token_hash
from privacy_pipeline.ledger.copies import backup
from privacy_pipeline.ledger.copies.carrying import Tail, carry
from privacy_pipeline.ledger.copies.moving import copy_table
from privacy_pipeline.ledger.copies.present_ledger import FIRST_HASH, ledger_here, lost_records
from privacy_pipeline.ledger.copies.restore_target import target
from privacy_pipeline.ledger.migrations.columns import number_on
from privacy_pipeline.ledger.state.entries import Price, budget_key
from privacy_pipeline.ledger.state.registration import TRAIN
from privacy_pipeline.ledger.storage import high_water, journal, keys, schema
from privacy_pipeline.ledger.storage.journal import Head, Writer
from privacy_pipeline.ledger.storage.keys import SigningKey
from privacy_pipeline.ledger.storage.principal import principal
from privacy_pipeline.ledger.storage.tables import SCHEMA_VERSION, metadata

NODE = "Restore"
_UNLIMITED = Price(event="null", values=(math.inf,) * len(ORDERS))
_DIGEST = "0" * 64


@dataclass(frozen=True, kw_only=True)
class Restoring:
    """What a restore does, or would do.

    Attributes:
        backup: number of the backup's last record.
        present: number of the last record of the present ledger that can be read; None where there is no such ledger.
        seen: number of the newest record that this host has seen; None where it kept none.
        carried: what of the present ledger is carried over: kinds of records and how many of each.
        lost: what is known of records that are lost, or cannot be ruled out, in sentences; empty if nothing is lost.
        charged: budgets that are charged without limit.
        aside: file that the damaged database is moved to; None where nothing is moved.
    """

    backup: int
    present: int | None
    seen: int | None
    carried: dict[str, int]
    lost: tuple[str, ...] = ()
    charged: tuple[str, ...] = ()
    aside: Path | None = None


class _NotWritten(Exception):  # noqa: N818 (no error: it undoes a transaction)
    """Ends a transaction that was a trial."""


def restore(url: str, file: Path, *, write: bool) -> Restoring:
    """Restore a ledger from a backup.

    Args:
        url: SQLAlchemy URL of the ledger.
        file: what `backup.backup` wrote.
        write: keep the result; without this, the same is tried and undone.

    Returns:
        What was done, or would be.

    Raises:
        BadInputError: the file is not a backup, or is one of another ledger or format.
        LedgerError: the backup does not verify, its key is not here, or the ledger cannot be written.
    """
    parsed = schema.parse(url)
    with backup.opened(file) as copy, schema.transaction(copy, write=False) as read:
        head = _checked(read, file)
        with target(parsed, write=write) as (engine, usable, aside):
            try:
                with schema.transaction(engine, write=True) as connection:
                    done, seal = _restored(connection, read, parsed, head, usable=usable)
                    if not write:
                        raise _NotWritten
            except _NotWritten:
                return replace(done, aside=aside)
        high_water.replace(seal.mark, seq=seal.seq, digest=seal.hash, key=seal.key)
    return replace(done, aside=aside)


def _checked(read: sa.Connection, file: Path) -> Head:
    found = schema.stored_format(read)
    if found != SCHEMA_VERSION:
        raise BadInputError(
            f"{file} has format {found}, and this version restores format {SCHEMA_VERSION}",
            fix="copy it, and bring the copy to this format: budget migrate --ledger sqlite:///COPY",
        )
    if problems := tampering(read):
        raise schema.LedgerError(f"{file} is not what a ledger wrote: {problems[0]}", fix="take another backup")
    return journal.read_head(read)


@dataclass(frozen=True, kw_only=True)
class _Seal:
    """The newest record, to be noted once it is committed."""

    mark: Path
    seq: int
    hash: str
    key: SigningKey


def _restored(
    connection: sa.Connection, read: sa.Connection, url: sa.URL, head: Head, *, usable: bool
) -> tuple[Restoring, _Seal]:
    present = ledger_here(connection, read, head) if usable else None
    mark_file = high_water.mark_file(read, url)
    if present is not None and present.first not in (None, read.scalar(FIRST_HASH)):
        raise BadInputError("the backup is of another ledger than the one that is there", fix="restore it elsewhere")
    mark = high_water.read(mark_file)
    high_water.require_writable(mark_file, is_there=mark is not None)
    lost = lost_records(connection, read, head, present, mark, on_server=schema.sqlite_file(url) is None)
    carried = present.tail if present is not None and present.goes_on else None
    _replace_tables(connection, read)
    if carried is not None and not _carried_over(connection, carried):
        lost, carried = (*lost, "records after the backup do not fit the ledger's tables"), None
    last_seq, last_hash = head.seq, head.hash
    if carried is not None and carried.records:
        last_seq, last_hash = int(carried.records[-1]["seq"]), str(carried.records[-1]["hash"])
    key, present_id = _signing(url, journal.current_key(connection).id, allow_other=bool(lost))
    writer = Writer(connection, key, seq=last_seq, last_hash=last_hash)
    if key.public.id != present_id:
        writer.append(journal.LOST, {"public_key": key.public.hex, "lost": present_id}, then=key)
        lost = (*lost, f"key {present_id} signed the backup, and key {key.public.id} is here: it takes over")
    moved = journal.moved_to(connection)
    if moved is not None:
        raise schema.LedgerError(f"this ledger was moved to {moved}", fix=f"restore it there: --ledger {moved}")
    body = {"backup": {"seq": head.seq, "hash": head.hash}, "unknown": bool(lost)}
    writer.append(journal.RESTORED, body)
    charged = _charge_without_limit(writer) if lost else ()
    number_on(connection, "registrations", "budgets", "entries")
    if problems := tampering(connection):
        raise schema.LedgerError(f"the restored ledger would not verify: {problems[0]}", fix="take another backup")
    newest = journal.read_head(connection)
    done = Restoring(
        backup=head.seq,
        present=None if present is None else present.read.seq,
        seen=None if mark is None else mark.seq,
        carried=_kinds(carried),
        lost=lost,
        charged=charged,
    )
    return done, _Seal(mark=mark_file, seq=newest.seq, hash=newest.hash, key=key)


def _signing(url: sa.URL, expected: str, *, allow_other: bool) -> tuple[SigningKey, str]:
    """Return the key that is here, and the id of the one that signed what is restored.

    Args:
        url: of the ledger.
        expected: id of the latter.
        allow_other: whether another key may take over, as from a lost one: a key that was replaced after the backup.

    Raises:
        LedgerError: there is no key that can be used, or it is another one.
    """
    path = keys.key_file(url)
    try:
        return keys.load(path, expected=expected), expected
    except schema.LedgerError:
        if not allow_other:
            raise
        return keys.load_any(path), expected


def _replace_tables(connection: sa.Connection, read: sa.Connection) -> None:
    metadata.create_all(connection)
    for table in reversed(metadata.sorted_tables):
        connection.execute(table.delete())
    for table in metadata.sorted_tables:
        copy_table(read, connection, table)


def _carried_over(connection: sa.Connection, tail: Tail) -> bool:
    """Carry a tail over, or leave everything as it was where the result does not fit."""
    trial = connection.begin_nested()
    try:
        carry(connection, tail)
    except (schema.LedgerError, SQLAlchemyError):
        trial.rollback()
        return False
    trial.commit()
    return True


def _charge_without_limit(writer: Writer) -> tuple[str, ...]:
    """Charge every budget without limit, as for an execution that cannot be priced."""
    connection, run_id = writer.connection, f"restore-{uuid.uuid4().hex[:12]}"
    text = json.dumps({"restored": run_id})
    charge = charges.put(connection, charges.row_of(text, _UNLIMITED))
    table = schema.budgets
    budgets = connection.execute(sa.select(table).order_by(table.c.id)).mappings().all()
    for budget in budgets:
        fixed = {
            "budget_id": budget["id"],
            "span_key": budget["span_key"],
            "data_digest": _DIGEST,
            "run_id": run_id,
            "node": NODE,
            "plan_key": token_hash(budget_key(budget)),
            "attempt": 1,
            "purpose": "train" if budget["split"] == TRAIN else "evaluate",
            "principal": principal(),
            "token": token_hash(uuid.uuid4().hex),
            "planned": charge,
        }
        order = budget["filter_order"] or ORDERS[-1]
        number = entries.add(writer, budget, fixed, cost=_UNLIMITED, order=order, ceiling=budget["ceiling"])
        entries.start(writer, _entry(connection, number))
        entries.commit(writer, _entry(connection, number), charge, overrun=False)
    return tuple(budget_key(budget) for budget in budgets)


def _entry(connection: sa.Connection, number: int) -> sa.RowMapping:
    table = schema.entries
    return connection.execute(sa.select(table).where(table.c.id == number)).mappings().one()


def _kinds(tail: Tail | None) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in tail.records if tail is not None else ():
        found[row["kind"]] = found.get(row["kind"], 0) + 1
    return found
