"""Which ledger a ledger is: the key that began its journal, and the keys that signed after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.ledger.storage import journal, schema
from privacy_pipeline.ledger.storage.journal import VERIFY
from privacy_pipeline.ledger.storage.keys import PublicKey
from privacy_pipeline.ledger.storage.schema import LedgerError

_KINDS = (journal.GENESIS, journal.ROTATE, journal.LOST)


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What distinguishes one ledger from another.

    Attributes:
        origin: public key of the first record, hexadecimal. It stays when the key is rotated.
        taken_over: ids of keys that took over from a lost one, signed by nobody else.
        seq, hash: the newest record.
        hashes: hashes of the records that were asked for, as far as they exist.
    """

    origin: str
    taken_over: tuple[str, ...]
    seq: int
    hash: str
    hashes: Mapping[int, str]


def lineage_of(connection: sa.Connection, at: Sequence[int] = ()) -> Lineage:
    """Follow the keys from the first record to the head.

    Args:
        connection: a transaction.
        at: numbers of records whose hashes are asked for.

    Raises:
        LedgerError: a record does not match its hash, or is signed by a key that may not sign it.
    """
    table = schema.journal
    keys = sa.select(table).where(table.c.kind.in_(_KINDS)).order_by(table.c.seq)
    current: PublicKey | None = None
    origin, taken_over = "", []
    for row in connection.execute(keys).mappings():
        named = _named(row)
        if row["kind"] == journal.GENESIS and row["seq"] == 1:
            origin, signer = named.hex, named
        elif current is None or row["kind"] == journal.GENESIS:
            raise _broken(row)
        elif row["kind"] == journal.LOST:
            taken_over.append(named.id)
            signer = named
        else:
            signer = current
        if row["key_id"] != signer.id or not signer.verifies(row["signature"], bytes.fromhex(row["hash"])):
            raise _broken(row)
        current = named
    head = journal.read_head(connection)
    if current is None or head.key_id != current.id or not current.verifies(head.signature, head.message):
        raise LedgerError("the head of the journal is not signed by the last of the ledger's keys", fix=VERIFY)
    asked = sa.select(table.c.seq, table.c.hash).where(table.c.seq.in_({*at, head.seq}))
    hashes = {seq: digest for seq, digest in connection.execute(asked)}
    if hashes.get(head.seq) != head.hash:
        raise LedgerError(f"the journal does not hold record {head.seq}, which its head names", fix=VERIFY)
    return Lineage(origin=origin, taken_over=tuple(taken_over), seq=head.seq, hash=head.hash, hashes=hashes)


def _named(row: sa.RowMapping) -> PublicKey:
    """Return the key that a record names, if the record matches its hash."""
    parts = {part: row[part] for part in ("seq", "at", "kind", "body", "prev_hash")}
    if journal.record_hash(**parts) != row["hash"]:
        raise _broken(row)
    try:
        return PublicKey(str(json_value(row["body"])["public_key"]))
    except (ValueError, KeyError, TypeError) as error:
        raise _broken(row) from error


def _broken(row: sa.RowMapping) -> LedgerError:
    return LedgerError(f"journal record {row['seq']} ({row['kind']}) is not what the ledger wrote", fix=VERIFY)
