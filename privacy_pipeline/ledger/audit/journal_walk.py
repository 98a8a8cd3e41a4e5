"""One pass over the journal: each record is checked and replayed, then the head and the keys."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import sqlalchemy as sa

from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.ledger.audit.replay import Replay, ReplayError
from privacy_pipeline.ledger.storage import journal, schema
from privacy_pipeline.ledger.storage.journal import Head, Receipt
from privacy_pipeline.ledger.storage.keys import PublicKey
from privacy_pipeline.ledger.storage.schema import LedgerError

_BATCH = 2000


class BrokenError(Exception):
    """The first record at which the journal is not what was written."""


@dataclass
class Walk:
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
            BrokenError: it is not what was written.
        """
        seq, kind = self.last_seq + 1, row["kind"]
        if row["seq"] != seq:
            raise BrokenError(f"journal record {seq} is missing: record {row['seq']} follows on {self.last_seq}")
        name = f"journal record {seq} ({kind}{_subject(row)})"
        if row["prev_hash"] != self.last_hash:
            raise BrokenError(f"{name} does not follow on record {self.last_seq}: one of them was changed or moved")
        parts = {part: row[part] for part in ("seq", "at", "kind", "body", "prev_hash")}
        if journal.record_hash(**parts) != row["hash"]:
            raise BrokenError(f"{name} was changed: its hash is not that of its content")
        try:
            body = json_value(row["body"])
            self._signed(row, body, name)
            self.replay.apply(seq=seq, at=row["at"], kind=kind, body=body)
        except ReplayError as error:
            raise BrokenError(f"{name} {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenError(f"{name} is malformed ({error!r})") from error
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
            raise BrokenError(f"{name}: the first record, and no other, names the ledger's first key")
        if kind in (journal.GENESIS, journal.LOST):
            self._take(PublicKey(body["public_key"]))
        if self.key is None or row["key_id"] != self.key.id:
            raise BrokenError(f"{name} is signed by key {row['key_id']}, which may not sign here")
        if not self.key.verifies(row["signature"], bytes.fromhex(row["hash"])):
            raise BrokenError(f"{name} has a signature that is not of key {self.key.id}")
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


def records_of(connection: sa.Connection) -> Iterator[sa.RowMapping]:
    """Yield the records of the journal in their order."""
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
