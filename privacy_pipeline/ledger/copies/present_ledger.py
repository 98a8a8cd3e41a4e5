"""The ledger that is there before a restore, and what of it a backup would lose."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from privacy_pipeline.ledger.audit.verify import Readable, readable
from privacy_pipeline.ledger.copies.carrying import Tail, tail_after
from privacy_pipeline.ledger.storage import high_water, schema
from privacy_pipeline.ledger.storage.journal import Head
from privacy_pipeline.ledger.storage.tables import metadata


@dataclass(frozen=True, kw_only=True)
class Present:
    """The ledger that is there now, as far as it can be read."""

    read: Readable
    first: str | None
    tail: Tail | None
    goes_on: bool  # whether it holds all of the backup
    behind: bool  # whether the backup holds all of it


def ledger_here(connection: sa.Connection, read: sa.Connection, head: Head) -> Present | None:
    """Return the ledger that is there, or None where there is none; then its tables are made."""
    if not sa.inspect(connection).has_table(schema.journal.name):
        metadata.create_all(connection)
        return None
    found = readable(connection)
    here = connection.scalar(_HASH_AT, {"seq": head.seq}) if found.seq >= head.seq else None
    there = read.scalar(_HASH_AT, {"seq": found.seq}) if found.seq <= head.seq else None
    goes_on = here == head.hash
    return Present(
        read=found,
        first=connection.scalar(FIRST_HASH) if found.seq else None,
        tail=tail_after(connection, head.seq, last=found.seq) if goes_on else None,
        goes_on=goes_on,
        behind=there == found.hash,
    )


def lost_records(
    connection: sa.Connection,
    read: sa.Connection,
    head: Head,
    present: Present | None,
    mark: high_water.Mark | None,
    *,
    on_server: bool,
) -> tuple[str, ...]:
    """Return what is lost, or cannot be ruled out; nothing where the end of what is kept is known to be the
    ledger's.
    """
    goes_on = present is not None and present.goes_on
    whole = present is not None and present.read.whole
    place, end = (connection, present.read.seq) if present is not None and goes_on else (read, head.seq)
    reaches = mark is not None and mark.seq <= end and place.scalar(_HASH_AT, {"seq": mark.seq}) == mark.hash
    if (goes_on and whole and (mark is None or reaches)) or (reaches and not on_server):
        return ()
    told = []
    if mark is not None and not reaches:
        told.append(f"this host has seen record {mark.seq} committed, and what is kept ends with record {end}")
    if present is None:
        told.append(f"there is no ledger that can be read, so what came after record {head.seq} is not known")
    elif not goes_on and not present.behind:
        told.append(f"the present ledger went another way than the backup; its records up to {present.read.seq} go")
    elif goes_on and not whole:
        told.append(f"the present journal can be followed up to record {present.read.seq} alone")
    elif not told:
        told.append(f"nothing shows that record {head.seq} was the ledger's last")
    return tuple(told)


_TABLE = schema.journal
FIRST_HASH = sa.select(_TABLE.c.hash).where(_TABLE.c.seq == 1)
_HASH_AT = sa.select(_TABLE.c.hash).where(_TABLE.c.seq == sa.bindparam("seq"))
