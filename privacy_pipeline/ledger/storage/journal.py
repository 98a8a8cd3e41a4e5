"""The journal: every change of the ledger as one signed record, chained to the one before it. Append-only.

A record's hash is SHA-256 over format, number, time, kind, body and the hash before it; the Ed25519 signature is over
that hash. The last number and hash stand, signed too, in the `head` row, so that a cut tail shows. With them the head
signs a digest of all that a reservation trusts (`trusted_state`), and every write checks the tables against it first. A
signature proves who wrote and in which order, not that what was written is what ran.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.ledger.storage import high_water, schema
from privacy_pipeline.ledger.storage.keys import PublicKey, SigningKey
from privacy_pipeline.ledger.storage.older_formats import columns_of_4
from privacy_pipeline.ledger.storage.principal import principal

FORMAT = "privacy-pipeline ledger journal 3"
NO_HASH = "0" * 64
VERIFY = "privacy-pipeline budget verify"
GENESIS, REGISTER, POLICY, RESERVE, START = "genesis", "register", "policy", "reserve", "start"
COMMIT, EXPIRE, TAKEOVER, ZERO = "commit", "expire", "takeover", "zero"
UNPROTECTED, BIND = "no_guarantee", "bind"
MOVED_TO, MOVED_FROM, RESTORED = "moved_to", "moved_from", "restored"
ROTATE, LOST, IMPORTED, ACCEPT = "rotate_key", "key_lost", "imported", "accept_import"
_HEAD, _KEY = "head", "public_key"
_SALT_BYTES = 16
HOLD_DIGESTS = (REGISTER, BIND, IMPORTED)  # of data, in their bodies
UNSALTED = (RESERVE,)  # it has the hash of a secret token


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Proof that the journal once held a record; to be kept away from the ledger.

    Attributes:
        seq: number of the record.
        hash: its hash, which fixes everything before it.
        key_id: key that signed it.
    """

    seq: int
    hash: str
    key_id: str


@dataclass(frozen=True, kw_only=True)
class Head:
    """Number and hash of the last record, signed by the key that signs now.

    Attributes:
        seq: number of the last record.
        hash: its hash.
        key_id: key that signs now.
        signature: of `message`, hexadecimal.
        state: `trusted_state` as the last writer left it; None in ledgers of format 3, which did not have it.
    """

    seq: int
    hash: str
    key_id: str
    signature: str
    state: str | None = None

    @property
    def message(self) -> bytes:
        """What is signed."""
        state = [] if self.state is None else [self.state]
        return hashlib.sha256(canonical([FORMAT, "head", self.seq, self.hash, *state]).encode()).digest()


def canonical(value: Any) -> str:
    """Return JSON with sorted keys and without blanks; infinities and NaN are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def record_hash(*, seq: int, at: str, kind: str, body: str, prev_hash: str) -> str:
    """Return the hash of a record, hexadecimal."""
    return hashlib.sha256(canonical([FORMAT, seq, at, kind, body, prev_hash]).encode()).hexdigest()


def now() -> str:
    """Return the present time, UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def trusted_state(connection: sa.Connection, *, since: str | None = None) -> str:
    """Return the SHA-256, hexadecimal, over all rows of budgets and registrations.

    That is caps, policies, totals, units and digests: what a reservation decides by, and small whatever the number of
    entries. In a ledger of format 4 it is over the columns that there were then.

    Args:
        connection: a transaction.
        since: format of the ledger, where it was read in this transaction.
    """
    queries = _TRUSTED_4 if (since or schema.stored_format(connection)) == "4" else _TRUSTED
    rows = [[list(row) for row in connection.execute(query)] for query in queries]
    return hashlib.sha256(json.dumps(rows, separators=(",", ":"), default=repr).encode()).hexdigest()


class Writer:
    """Appends to the journal within one write transaction.

    Attributes:
        connection: the transaction; changes of the other tables go with it.
        public: the key that signs.
    """

    def __init__(
        self, connection: sa.Connection, key: SigningKey, *, seq: int, last_hash: str, mark: Path | None = None
    ) -> None:
        self.connection = connection
        self._key, self._mark = key, mark
        self._seq, self._hash = seq, last_hash

    @property
    def public(self) -> PublicKey:
        """The key that signs."""
        return self._key.public

    def append(
        self, kind: str, body: Mapping[str, Any], *, at: str | None = None, then: SigningKey | None = None
    ) -> Receipt:
        """Append one record and move the head. The body of each record but a reservation names who did it.

        Hashes of records are in receipts, pins and exports. Without a salt, guesses of digests of data, of numbers of
        rows and units, and of times, which reveal how long a run took, could be tried against them.

        Args:
            kind: what happened.
            body: all that it takes to replay it, as JSON values.
            at: time, UTC, ISO 8601; now by default.
            then: the key that signs from here on, starting with the head.
        """
        who = {} if kind == RESERVE else {"principal": principal()}  # a reservation names its own
        salt = {} if kind in UNSALTED else {"salt": secrets.token_hex(_SALT_BYTES)}
        seq, at, text, key = self._seq + 1, at or now(), canonical({**who, **body, **salt}), self._key
        digest = record_hash(seq=seq, at=at, kind=kind, body=text, prev_hash=self._hash)
        row = {"seq": seq, "at": at, "kind": kind, "body": text, "prev_hash": self._hash, "hash": digest}
        signature = key.sign(bytes.fromhex(digest))
        self.connection.execute(schema.journal.insert(), {**row, "key_id": key.public.id, "signature": signature})
        self._seq, self._hash = seq, digest
        if then is not None:
            self._key = then
            _set(self.connection, _KEY, then.public.hex)
        self.seal()
        return Receipt(seq=seq, hash=digest, key_id=key.public.id)

    def note_committed(self) -> None:
        """Note the last record beside the key, once the transaction is committed; a new journal has no mark yet.

        Raises:
            LedgerError: it cannot be. What was committed stays.
        """
        if self._mark is not None:
            high_water.advance(self._mark, seq=self._seq, digest=self._hash, key=self._key)

    def seal(self) -> None:
        """Sign the head over the last record and the tables as they are now."""
        state, key_id = trusted_state(self.connection), self._key.public.id
        head = Head(seq=self._seq, hash=self._hash, key_id=key_id, signature="", state=state)
        signed = {"seq": head.seq, "hash": head.hash, "key_id": key_id, "state": state}
        _set(self.connection, _HEAD, canonical({**signed, "signature": self._key.sign(head.message)}))


def moved_to(connection: sa.Connection) -> str | None:
    """Return where a ledger was moved to; None where it was not.

    Raises:
        LedgerError: its last record is malformed.
    """
    last = connection.execute(_LAST_RECORD).first()
    if last is None or last.kind != MOVED_TO:
        return None
    try:
        return str(json_value(last.body)["to"])
    except (ValueError, KeyError, TypeError) as error:
        raise schema.LedgerError("the last record of the journal is malformed", fix=VERIFY) from error


def accept_imports(journal: Writer) -> None:
    """Record that what was imported from an older format is known to be right.

    Raises:
        BadInputError: nothing was imported.
    """
    table = schema.journal
    imported = sa.select(table.c.seq, table.c.hash).where(table.c.kind == IMPORTED).order_by(table.c.seq.desc())
    last = journal.connection.execute(imported.limit(1)).first()
    if last is None:
        raise BadInputError("nothing was imported into this ledger", fix="leave out --accept")
    journal.append(ACCEPT, {"seq": last.seq, "hash": last.hash})


def begin(connection: sa.Connection, key: SigningKey) -> Writer:
    """Return the first record of a new journal."""
    _set(connection, _KEY, key.public.hex)
    started = Writer(connection, key, seq=0, last_hash=NO_HASH)
    started.append(GENESIS, {"public_key": key.public.hex})
    return started


def read_head(connection: sa.Connection) -> Head:
    """Return the head as it is stored, unchecked.

    Raises:
        LedgerError: it is missing or malformed.
    """
    try:
        found = json_value(_get(connection, _HEAD) or "null")
        return Head(
            seq=int(found["seq"]),
            hash=str(found["hash"]),
            key_id=str(found["key_id"]),
            signature=str(found["signature"]),
            state=None if found.get("state") is None else str(found["state"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise schema.LedgerError("the journal's head is missing or damaged", fix=VERIFY) from error


def current_key(connection: sa.Connection) -> PublicKey:
    """Return the key that signs now, as the ledger names it.

    Raises:
        LedgerError: it is missing or malformed.
    """
    found = _get(connection, _KEY) or ""
    if len(found) != 64 or not set(found) <= set("0123456789abcdef"):
        raise schema.LedgerError("the ledger's public key is missing or damaged", fix=VERIFY)
    return PublicKey(found)


def name_key(connection: sa.Connection, public_key: str) -> None:
    """Write down which key signs now, hexadecimal."""
    _set(connection, _KEY, public_key)


def receipt_of(connection: sa.Connection, seq: int) -> Receipt | None:
    """Return the receipt of a record, or None where there is none."""
    table = schema.journal
    row = connection.execute(sa.select(table).where(table.c.seq == seq)).mappings().first()
    return None if row is None else Receipt(seq=row["seq"], hash=row["hash"], key_id=row["key_id"])


# Built once: every write asks for them while it holds the lock.
_VALUE = sa.select(schema.meta.c.value).where(schema.meta.c.key == sa.bindparam("name"))
_STORE = schema.meta.update().where(schema.meta.c.key == sa.bindparam("name")).values(value=sa.bindparam("text"))
_TRUSTED = tuple(sa.select(table).order_by(table.c.id) for table in (schema.budgets, schema.registrations))
_TRUSTED_4 = tuple(
    sa.select(*columns_of_4(table)).order_by(table.c.id) for table in (schema.budgets, schema.registrations)
)
_LAST_RECORD = sa.select(schema.journal.c.kind, schema.journal.c.body).order_by(schema.journal.c.seq.desc()).limit(1)


def _get(connection: sa.Connection, key: str) -> str | None:
    found = connection.scalar(_VALUE, {"name": key})
    return None if found is None else str(found)


def _set(connection: sa.Connection, key: str, value: str) -> None:
    if connection.execute(_STORE, {"name": key, "text": value}).rowcount == 0:
        connection.execute(schema.meta.insert(), {"key": key, "value": value})
