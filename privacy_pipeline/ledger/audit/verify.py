"""Whether the ledger is what its writers wrote: the journal in one pass, then the tables and totals against it.

Finds edits, deletions, reordering and a cut tail. A rollback of the whole database to an earlier state is found by a
receipt that is newer than that state, or by what this host has seen (`high_water`); without both it cannot be found.
A signature proves authorship and order, not that what was recorded is what ran.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from privacy_pipeline.errors import PipelineError
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.ledger.audit.compare import compare
from privacy_pipeline.ledger.audit.replay import Replay, ReplayError
from privacy_pipeline.ledger.storage import high_water, journal, keys, schema
from privacy_pipeline.ledger.storage.journal import Head, Receipt
from privacy_pipeline.ledger.storage.keys import PublicKey
from privacy_pipeline.ledger.storage.schema import LedgerError

_BATCH = 2000


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


class _BrokenError(Exception):
    """The first record at which the journal is not what was written."""


@dataclass
class _Walk:
    """The pass over the journal."""

    accepted: Collection[str] = ()
    pin: PublicKey | None = None
    receipts: dict[int, list[Receipt]] = field(default_factory=dict)
    replay: Replay = field(default_factory=Replay)
    key: PublicKey | None = None
    signers: list[str] = field(default_factory=list)
    imported: int = 0
    imported_hash: str = ""
    accepted_by: str | None = None
    lost: list[str] = field(default_factory=list)
    unaccepted: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    last_seq: int = 0
    last_hash: str = journal.NO_HASH
    pin_signed: bool = False

    def record(self, row: sa.RowMapping) -> None:
        """Check one record and replay it.

        Raises:
            _BrokenError: it is not what was written.
        """
        seq, kind = self.last_seq + 1, row["kind"]
        if row["seq"] != seq:
            raise _BrokenError(f"journal record {seq} is missing: record {row['seq']} follows on {self.last_seq}")
        name = f"journal record {seq} ({kind}{_subject(row)})"
        if row["prev_hash"] != self.last_hash:
            raise _BrokenError(f"{name} does not follow on record {self.last_seq}: one of them was changed or moved")
        parts = {part: row[part] for part in ("seq", "at", "kind", "body", "prev_hash")}
        if journal.record_hash(**parts) != row["hash"]:
            raise _BrokenError(f"{name} was changed: its hash is not that of its content")
        try:
            body = json_value(row["body"])
            self._signed(row, body, name)
            self.replay.apply(seq=seq, at=row["at"], kind=kind, body=body)
        except ReplayError as error:
            raise _BrokenError(f"{name} {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise _BrokenError(f"{name} is malformed ({error!r})") from error
        self._receipts(row, name)
        self._imports(row, body)
        self.last_seq, self.last_hash = seq, row["hash"]

    def _imports(self, row: sa.RowMapping, body: dict[str, str]) -> None:
        if row["kind"] == journal.IMPORTED:
            self.imported, self.imported_hash, self.accepted_by = self.imported + 1, row["hash"], None
        elif row["kind"] == journal.ACCEPT and body["hash"] == self.imported_hash:
            self.accepted_by = f"{body['principal']} at {row['at']}"

    def _signed(self, row: sa.RowMapping, body: dict[str, str], name: str) -> None:
        seq, kind = row["seq"], row["kind"]
        if (seq == 1) != (kind == journal.GENESIS):
            raise _BrokenError(f"{name}: the first record, and no other, names the ledger's first key")
        if kind in (journal.GENESIS, journal.LOST):
            self._take(PublicKey(body["public_key"]))
        if self.key is None or row["key_id"] != self.key.id:
            raise _BrokenError(f"{name} is signed by key {row['key_id']}, which may not sign here")
        if not self.key.verifies(row["signature"], bytes.fromhex(row["hash"])):
            raise _BrokenError(f"{name} has a signature that is not of key {self.key.id}")
        self.pin_signed = self.pin_signed or self.key == self.pin
        if kind == journal.LOST:
            self.lost.append(self.key.id)
            if self.key.id not in self.accepted:
                self.unaccepted.append(
                    f"{name}: key {body['lost']} was declared lost and key {self.key.id} took over, signed by nobody "
                    f"else; if that is known to be right: --accept-lost-key {self.key.id}"
                )
                self.problems.append(self.unaccepted[-1])
        if kind == journal.ROTATE:
            self._take(PublicKey(body["public_key"]))

    def _take(self, key: PublicKey) -> None:
        self.key = key
        self.signers.append(key.id)

    def _receipts(self, row: sa.RowMapping, name: str) -> None:
        for receipt in self.receipts.pop(row["seq"], []):
            if (receipt.hash, receipt.key_id) != (row["hash"], row["key_id"]):
                self.problems.append(f"{name} is not the one that a receipt names: the ledger was rewritten")

    def finish(self, connection: sa.Connection) -> Head | None:
        """Check the head, the pinned key and the rest of the receipts against what was read."""
        head = self._head(connection)
        if self.imported and self.accepted_by is None:
            self.unaccepted.append(
                f"{self.imported} records were imported from a format without signatures, and nobody accepted them: "
                "protected since then, not before; if they are known to be right: privacy-pipeline budget migrate "
                "--accept"
            )
            self.problems.append(self.unaccepted[-1])
        for seq in sorted(self.receipts):
            self.problems.append(f"journal record {seq}, of which there is a receipt, is missing: the tail was cut")
        if self.pin is not None and not self.pin_signed and not (head is not None and head.key_id == self.pin.id):
            self.problems.append(
                f"the pinned key {self.pin.id} signed nothing here: this is another ledger, or its keys were replaced"
            )
        return head

    def _head(self, connection: sa.Connection) -> Head | None:
        try:
            head, stored = journal.read_head(connection), journal.current_key(connection)
        except LedgerError as error:
            self.problems.append(error.message)
            return None
        if stored != self.key:
            self.problems.append(f"the ledger names key {stored.id} as its own, the journal another one")
        if head.seq > self.last_seq:
            lost = f"the head names record {head.seq}, the journal ends with {self.last_seq}"
            self.problems.append(f"journal record {self.last_seq + 1} is missing: {lost}: the tail was cut")
        elif (head.seq, head.hash) != (self.last_seq, self.last_hash):
            self.problems.append(f"the head names record {head.seq}, but the journal ends with {self.last_seq}")
        if self.key is None or head.key_id != self.key.id or not self.key.verifies(head.signature, head.message):
            self.problems.append(f"the head at record {head.seq} is not signed by the ledger's key")
        return head


def _read(connection: sa.Connection, walk: _Walk, *, reprice: bool) -> Head | None:
    """Read the journal in one pass, then compare the tables with it. Return the head; None where it cannot be read."""
    try:
        for row in _records(connection):
            walk.record(row)
    except _BrokenError as error:
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
    walk, whole = _Walk(), True
    try:
        for row in _records(connection):
            walk.record(row)
        walk.finish(connection)
        whole = set(walk.problems) <= set(walk.unaccepted)
    except _BrokenError:
        whole = False
    return Readable(seq=walk.last_seq, hash=walk.last_hash, whole=whole)


def tampering(connection: sa.Connection) -> list[str]:
    """Return all problems, without lost keys and imports that nobody accepted; see `verify`.

    Args:
        connection: a transaction.
    """
    walk = _Walk()
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
    walk = _Walk(accepted=accepted, pin=pin, receipts=wanted)
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


def _records(connection: sa.Connection) -> Iterator[sa.RowMapping]:
    query = sa.select(schema.journal).order_by(schema.journal.c.seq)
    # Of the statement alone: a connection keeps its options, and a migration goes on to write with it.
    yield from connection.execute(query, execution_options={"yield_per": _BATCH}).mappings()


def _subject(row: sa.RowMapping) -> str:
    """Return the entry that a record is about, for messages; its body may be anything."""
    try:
        entry = json_value(row["body"])["entry"]
        return f", entry {entry['id'] if isinstance(entry, dict) else entry}"
    except (ValueError, KeyError, TypeError):
        return ""


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
