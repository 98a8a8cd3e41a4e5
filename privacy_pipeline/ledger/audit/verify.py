"""Whether the ledger is what its writers wrote: the journal in one pass, then the tables and totals against it.

Finds edits, deletions, reordering and a cut tail. A rollback of the whole database to an earlier state is found by a
receipt that is newer than that state, or by what this host has seen (`high_water`); without both it cannot be found.
A signature proves authorship and order, not that what was recorded is what ran.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from privacy_pipeline.errors import PipelineError
from privacy_pipeline.ledger.audit.compare import compare
from privacy_pipeline.ledger.audit.journal_walk import BrokenError, Walk, records_of
from privacy_pipeline.ledger.storage import high_water, journal, keys, schema
from privacy_pipeline.ledger.storage.journal import Head, Receipt
from privacy_pipeline.ledger.storage.keys import PublicKey


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `verify` found.

    Attributes:
        problems: what is wrong, the first in the journal first; empty if nothing is.
        unaccepted: the problems that are not a sign of tampering: a lost key or an import that nobody accepted.
        notes: what a reader should know although it is not an error.
        records: journal records that were read.
        entries: entries that they make.
        receipts: receipts that were looked up.
        head: the last record's number, hash and key, unless the head is damaged. What else the head holds is a digest
            of all registrations, and stays in the ledger.
        keys: ids of the keys that signed, in their order.
    """

    problems: Sequence[str]
    unaccepted: Sequence[str]
    notes: Sequence[str]
    records: int
    entries: int
    receipts: int
    head: Receipt | None
    keys: Sequence[str]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def _read(connection: sa.Connection, walk: Walk, *, reprice: bool) -> Head | None:
    """Read the journal in one pass, then compare the tables with it. Return the head; None where it cannot be read."""
    try:
        for row in records_of(connection):
            walk.record(row)
    except BrokenError as error:
        walk.problems.append(str(error))
        return None
    head = walk.finish(connection)
    walk.problems += compare(connection, walk.replay, reprice=reprice)
    if head is not None and head.state is None and schema.stored_format(connection) != "3":
        walk.problems.append("the head does not sign budgets and registrations, as that of this format does")
    if head is not None and head.state not in (None, journal.trusted_state(connection)):
        walk.problems.append("budgets or registrations are not those that the head was signed with")
    return head


@dataclass(frozen=True, kw_only=True)
class Readable:
    """How far a journal is what its writers wrote.

    Attributes:
        seq, hash: the last such record; 0 where not even the first is.
        whole: whether that is all of it, head and keys included.
    """

    seq: int
    hash: str
    whole: bool


def readable(connection: sa.Connection) -> Readable:
    """Walk a journal as far as it can be followed; tables are not looked at.

    Args:
        connection: a transaction.
    """
    walk, whole = Walk(), True
    try:
        for row in records_of(connection):
            walk.record(row)
        walk.finish(connection)
        whole = set(walk.problems) <= set(walk.unaccepted)
    except BrokenError:
        whole = False
    return Readable(seq=walk.last_seq, hash=walk.last_hash, whole=whole)


def tampering(connection: sa.Connection) -> list[str]:
    """Return all problems, without lost keys and imports that nobody accepted; see `verify`.

    Args:
        connection: a transaction.
    """
    walk = Walk()
    _read(connection, walk, reprice=True)
    return [problem for problem in walk.problems if problem not in walk.unaccepted]


def verify(
    engine: sa.Engine,
    *,
    receipts: Sequence[Receipt] = (),
    public_key: PublicKey | None = None,
    accepted: Collection[str] = (),
    reprice: bool = True,
) -> Verification:
    """Verify a ledger. Nothing is written and no private key is needed.

    Args:
        engine: the ledger's engine.
        receipts: of records that the journal must hold, from the records of runs.
        public_key: a key that must have signed, from a copy that was kept apart; by default the copy beside the private
            key, where there is one.
        accepted: ids of keys that took over from a lost one, and are known to be right.
        reprice: also compute each stored charge again from its event (needs dp_accounting).

    Raises:
        LedgerError: the database cannot be read.
    """
    notes: list[str] = []
    pin = public_key if public_key is not None else _copy(engine, notes)
    wanted: dict[int, list[Receipt]] = {}
    for receipt in receipts:
        wanted.setdefault(receipt.seq, []).append(receipt)
    walk = Walk(accepted=accepted, pin=pin, receipts=wanted)
    seen = high_water.seen(engine)
    with schema.transaction(engine, write=False, as_stored=True) as connection:
        head = _read(connection, walk, reprice=reprice)
        if seen is not None and walk.key is not None:
            file, mark = seen
            if put_back := high_water.problem(connection, mark, file=file, present=walk.key):
                walk.problems.append(put_back)
    if walk.accepted_by is not None:
        told = f"{walk.imported} records were imported from an older format, protected since then, not before"
        notes.append(f"{told}; accepted by {walk.accepted_by}")
    notes += [f"key {key} took over from a lost key, and is accepted" for key in walk.lost if key in accepted]
    if not receipts:
        found = "only by what this host has seen of it" if seen else "by nothing"
        notes.append(f"no receipt was given: a rollback to an earlier state of the whole ledger is found {found}")
    entries = len(walk.replay.open) + len(walk.replay.closed)
    return Verification(
        problems=walk.problems,
        unaccepted=walk.unaccepted,
        notes=notes,
        records=walk.last_seq,
        entries=entries,
        receipts=len(receipts),
        head=None if head is None else Receipt(seq=head.seq, hash=head.hash, key_id=head.key_id),
        keys=walk.signers,
    )


def _copy(engine: sa.Engine, notes: list[str]) -> PublicKey | None:
    try:
        found = keys.read_public(keys.public_file(keys.key_file(engine.url)))
    except PipelineError:
        notes.append("there is no copy of the public key to check the signatures with: give --public-key")
        return None
    notes.append(
        f"the signatures were checked with key {found.id} from beside the private key: anyone who replaced the ledger "
        "may have replaced that key too; give --public-key with a copy kept elsewhere"
    )
    return found
