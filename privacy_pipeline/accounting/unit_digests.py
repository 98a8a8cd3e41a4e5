"""Keyed digests of a span's privacy units, and the proof that two spans have no unit in common.

Fresh budget for a span is sound only where nobody pays from two budgets (block composition: Lecuyer et al. 2019,
"Privacy Accounting and Quality Control in the Sage Differentially Private ML Platform", section 4). So the keys of a
span's units are kept at registration as HMAC-SHA256 under a secret that lies beside the signing key, cut to 128 bits:
without the secret nobody can try keys against them, and an accidental collision can only refuse. They are part of the
journal's record of the registration, so that `verify` finds an edit.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from privacy_pipeline.accounting import keys
from privacy_pipeline.accounting import ledger_schema as schema
from privacy_pipeline.accounting.journal import REGISTER
from privacy_pipeline.errors import BadInputError

_FILE = "ledger_units.key"
_SECRET_BYTES, _DIGEST_BYTES = 32, 16
_SHARE = "register the span without --disjoint: it then shares the budget of the other spans"


@dataclass(frozen=True, kw_only=True)
class UnitDigests:
    """The units of a span.

    Attributes:
        key_id: first 16 hexadecimal digits of the secret's SHA-256.
        digests: a digest of 16 bytes for each unit, all splits together.
        splits: those of them that are in each split; empty where that was not told.
    """

    key_id: str
    digests: frozenset[bytes]
    splits: Mapping[str, frozenset[bytes]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For the journal; sorted, so that the order tells nothing of the data's. A split has a bit for each digest."""
        ordered = sorted(self.digests)
        bits = {split: bytes(map(found.__contains__, ordered)) for split, found in self.splits.items()}
        stored: dict[str, Any] = {"key_id": self.key_id, "digests": base64.b64encode(b"".join(ordered)).decode()}
        return stored | ({"splits": {split: _packed(each) for split, each in bits.items()}} if bits else {})

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> UnitDigests:
        """What `to_json` gave."""
        joined = base64.b64decode(stored["digests"], validate=True)
        ordered = [joined[at : at + _DIGEST_BYTES] for at in range(0, len(joined), _DIGEST_BYTES)]
        splits = {
            split: frozenset(itertools.compress(ordered, _unpacked(bits, len(ordered))))
            for split, bits in stored.get("splits", {}).items()
        }
        return cls(key_id=stored["key_id"], digests=frozenset(ordered), splits=splits)


def _packed(bits: bytes) -> str:
    number = int("".join(map(str, bits)) or "0", 2)
    return base64.b64encode(number.to_bytes((len(bits) + 7) // 8, "big")).decode()


def _unpacked(text: str, count: int) -> list[int]:
    number = int.from_bytes(base64.b64decode(text, validate=True), "big")
    return [int(bit) for bit in f"{number:0{count}b}"] if count else []


def digest_units(units: Iterable[str] | Mapping[str, Iterable[str]], secret: bytes) -> UnitDigests:
    """Digests of units by their keys as texts; those that may well be one person's count as one key.

    Args:
        units: keys as they are written: "07" and "7", or "Ann" and " ann", are the same. By split, where that is known.
        secret: the ledger's secret.
    """
    splits = {split: _digested(keys, secret) for split, keys in units.items()} if isinstance(units, Mapping) else {}
    found = frozenset().union(*splits.values()) if isinstance(units, Mapping) else _digested(units, secret)
    return UnitDigests(key_id=_key_id(secret), digests=found, splits=splits)


def _digested(units: Iterable[str], secret: bytes) -> frozenset[bytes]:
    return frozenset(hmac.digest(secret, _folded(unit).encode(), "sha256")[:_DIGEST_BYTES] for unit in units)


def _folded(unit: str) -> str:
    try:
        return str(int(unit))
    except ValueError:
        return unicodedata.normalize("NFKC", unit).strip().casefold()


def _key_id(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()[:16]


def ledger_secret(url: sa.URL) -> bytes:
    """The secret of a ledger, made with its first keyed registration; a file of mode 0600 beside the signing key.

    Raises:
        LedgerError: it cannot be read or written, or is damaged.
    """
    path = keys.key_file(url).with_name(_FILE)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(os.urandom(_SECRET_BYTES).hex())
            stream.flush()
            os.fsync(stream.fileno())
    except FileExistsError:
        pass
    except OSError as error:
        raise schema.LedgerError(f"{path}: {error.strerror or error}", fix="make its folder writable") from error
    try:
        secret = bytes.fromhex(path.read_text())
    except (OSError, ValueError) as error:
        raise schema.LedgerError(f"{path}: {error}", fix="restore it from a copy") from error
    if len(secret) != _SECRET_BYTES:
        raise schema.LedgerError(f"{path}: the secret of the units' digests is damaged", fix="restore it from a copy")
    return secret


def require_disjoint(
    connection: sa.Connection,
    *,
    dataset: str,
    unit: str,
    units: UnitDigests | None,
    spans: Sequence[str],
    fix: str = "",
) -> None:
    """Proves that a new span has no unit in common with registered ones.

    Args:
        connection: a transaction.
        dataset: its name.
        unit: "row", or the key column.
        units: the new span's units, where their keys are known.
        spans: keys of the spans to hold it against.
        fix: what to do where there is no proof; by default to share the budget.

    Raises:
        BadInputError: a unit is in both, or it cannot be known.
    """
    fix = fix or _SHARE
    if not spans:
        return
    if unit == "row" or units is None:
        why = (
            "where the unit is a row there is no key that would tell whether a person's row is in another span too"
            if unit == "row"
            else "the keys of this data are not known before ExampleGen has read it"
        )
        raise BadInputError(f"dataset {dataset}: no proof that the span's units are in no other span: {why}", fix=fix)
    stored = stored_digests(connection, dataset)
    for span in spans:
        known = stored.get(span)
        named = f"span {span}" if span else "the dataset without a span"
        if known is None or known.key_id != units.key_id:
            why = "without digests of its units" if known is None else "under another secret of digests"
            raise BadInputError(f"dataset {dataset}: {named} was registered {why}: nothing is proven", fix=fix)
        shared = len(known.digests & units.digests)
        if shared:
            told = f"{shared:,} of the new span's {len(units.digests):,} units are in {named} too"
            raise BadInputError(f"dataset {dataset}: {told}; nobody may pay from two budgets", fix=fix)


def stored_digests(connection: sa.Connection, dataset: str) -> dict[str, UnitDigests]:
    """Digests by span key, from the journal."""
    table, found = schema.journal, {}
    for text in connection.scalars(sa.select(table.c.body).where(table.c.kind == REGISTER)):
        body: dict[str, Any] = json.loads(text)
        if body["registration"]["dataset"] == dataset and body.get("units") is not None:
            found[body["registration"]["span_key"]] = UnitDigests.from_json(body["units"])
    return found
