"""Keyed digests of the privacy units and rows of a registered span: they identify its people without naming them.

Fresh budget is sound only where nobody pays from two budgets (block composition: Lecuyer et al. 2019, "Privacy
Accounting and Quality Control in the Sage Differentially Private ML Platform", section 4). So the keys of a span's
units are kept at registration as HMAC-SHA256 under a secret (`digest_secret`), and its rows as keyed hashes
(`data.counting.row_digests`), each of 64 bits: without the secret nobody can try keys or rows against them, and an
accidental collision can only refuse. They lie in a table beside the journal, whose record of the registration holds
the root of each; `verify` recomputes the roots.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import sqlalchemy as sa

from privacy_pipeline.covered_digests import id_of
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.ledger.storage.journal import BIND, REGISTER, VERIFY
from privacy_pipeline.processes.side_by_side import processors, side_by_side
from privacy_pipeline.text.plain_text import plain_key

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[np.uint64]  # NumPy is loaded on use: reading a ledger needs none

ALL = "all"  # the units or rows of a span where it was not stated which split each is in
_DIGEST_BYTES, _OLDER_BYTES = 8, 16
_MANY, _PIECE = 500_000, 50_000  # units: from how many on several processes work, and on how many each at once
_PART = 1 << 20  # digests in one row of the table
_BIG_ENDIAN = ">u8"


@dataclass(frozen=True, kw_only=True, eq=False)
class UnitDigests:
    """The units and rows of a span, each as 64 bits.

    Attributes:
        key_id: first 16 hexadecimal digits of the secret's SHA-256.
        units: by split, sorted, each unit once; `ALL` where the split was not stated. Empty where units have no keys.
        rows: by split, sorted, equal rows as often as there are; empty where the rows were not given.
    """

    key_id: str
    units: Mapping[str, Array] = field(default_factory=dict)
    rows: Mapping[str, Array] = field(default_factory=dict)

    @property
    def every_unit(self) -> Array:
        """The units of all splits together, each once."""
        return once(self.units.values())

    @property
    def every_row(self) -> Array:
        """The rows of all splits together, sorted."""
        import numpy as np

        return np.sort(joined(self.rows.values()))

    def tables(self) -> Iterator[tuple[str, str, Array]]:
        """Yield kind (`unit` or `row`), split and digests of each table."""
        for kind, found in (("unit", self.units), ("row", self.rows)):
            for split in sorted(found):
                yield kind, split, found[split]

    def to_record(self) -> dict[str, Any]:
        """Return the number and root of each table, for the journal."""
        stored: dict[str, Any] = {"key_id": self.key_id}
        for kind, split, digests in self.tables():
            stored.setdefault(kind, {})[split] = [len(digests), root(digests)]
        return stored


def once(several: Iterable[Array]) -> Array:
    """Return the different digests of several sets, sorted."""
    import numpy as np

    found: Array = np.unique(joined(several))
    return found


def joined(several: Iterable[Array]) -> Array:
    """Return several multisets as one."""
    import numpy as np

    return np.concatenate([np.empty(0, np.uint64), *several])


def in_common(one: Array, other: Array) -> int:
    """Return how many digests two multisets have in common."""
    import numpy as np

    (first, n), (second, m) = (np.unique(each, return_counts=True) for each in (one, other))
    _, at, where = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    return int(np.minimum(n[at], m[where]).sum())


def are_same(one: Array, other: Array) -> bool:
    """Return whether two sorted sets are equal."""
    import numpy as np

    return bool(np.array_equal(one, other))


def _of_bytes(joined: bytes) -> Array:
    """Return digests from the bytes of a table, in their order."""
    import numpy as np

    return np.frombuffer(joined, _BIG_ENDIAN).astype(np.uint64)


def root(digests: Array) -> str:
    """Return the SHA-256, hexadecimal, of sorted digests: what the journal holds of a table."""
    return hashlib.sha256(digests.astype(_BIG_ENDIAN).tobytes()).hexdigest()


def digest_units(units: Iterable[str] | Mapping[str, Iterable[str]], secret: bytes) -> dict[str, Array]:
    """Return digests of units by their keys as texts; those that may well be one person's count as one key.

    Args:
        units: keys as they are written: "07" and "7", or "Ann" and " ann", are the same. By split, where that is known.
        secret: the ledger's secret.
    """
    by_split = units if isinstance(units, Mapping) else {ALL: units}
    return {split: _digested(found, secret) for split, found in by_split.items()}


def _digested(units: Iterable[str], secret: bytes) -> Array:
    many = isinstance(units, Sized) and len(units) > _MANY
    left, parts, processes = iter(units), list[bytes](), processors() if many else 1
    with side_by_side(partial(_hashed, secret=secret), processes=processes) as of_several:
        pieces = iter(lambda: list(itertools.islice(left, _PIECE)), [])
        while some := list(itertools.islice(pieces, processes)):
            parts += of_several(some)
    return once([_of_bytes(b"".join(parts))])


def _hashed(units: Sequence[str], *, secret: bytes) -> bytes:
    """Yield the HMAC-SHA256 (RFC 2104) of each unit. Both hashes have read the key; a copy goes on from there."""
    block, hashed = secret.ljust(64, b"\0"), []
    inner, outer = (hashlib.sha256(bytes(byte ^ pad for byte in block)) for pad in (0x36, 0x5C))
    for unit in units:
        first, second = inner.copy(), outer.copy()
        first.update((unit if unit.isdecimal() and unit.isascii() and unit[0] != "0" else plain_key(unit)).encode())
        second.update(first.digest())
        hashed.append(second.digest()[:_DIGEST_BYTES])
    return b"".join(hashed)


def digests_of(
    *, units: Mapping[str, Iterable[str]] | Iterable[str] | None, rows: Mapping[str, Array] | None, secret: bytes
) -> UnitDigests:
    """Return the digests of a span.

    Args:
        units: keys, by split where that is known; None where units have none.
        rows: digests of rows in any order, by split; None where nobody made them.
        secret: the ledger's secret.
    """
    import numpy as np

    keyed = {} if units is None else digest_units(units, secret)
    ordered = {split: np.sort(found) for split, found in (rows or {}).items()}
    return UnitDigests(key_id=id_of(secret), units=keyed, rows=ordered)


def store(connection: sa.Connection, *, dataset: str, span_key: str, digests: UnitDigests) -> None:
    """Write the tables of a span; the journal's record of their roots has to follow in the same transaction."""
    about = {"dataset": dataset, "span_key": span_key}
    for kind, split, found in digests.tables():
        for part, start in enumerate(range(0, max(len(found), 1), _PART)):
            data = found[start : start + _PART].astype(_BIG_ENDIAN).tobytes()
            row = {**about, "kind": kind, "split": split, "part": part, "data": data}
            connection.execute(schema.unit_digests.insert().values(**row))


def stored_digests(connection: sa.Connection, dataset: str | None = None) -> dict[tuple[str, str], UnitDigests]:
    """Return digests by dataset and span key, each table checked against its root in the journal.

    Args:
        connection: a transaction.
        dataset: of this dataset; None for all.

    Raises:
        LedgerError: a table is not what was registered.
    """
    table = schema.journal
    query = sa.select(table.c.body).where(table.c.kind.in_((REGISTER, BIND))).order_by(table.c.seq)
    found: dict[tuple[str, str], UnitDigests] = {}
    for text in connection.scalars(query):
        body: dict[str, Any] = json_value(text)
        key = (body["registration"]["dataset"], body["registration"]["span_key"])
        if dataset is not None and key[0] != dataset:
            continue
        if body.get("digests") is not None:
            found[key] = _read(connection, key, body["digests"])
        elif body.get("units") is not None:
            found[key] = _of_format_4(body["units"])
    return found


def differing_tables(connection: sa.Connection, key: tuple[str, str], record: Mapping[str, Any]) -> list[str]:
    """Return the tables of a span that differ from its record in the journal, as "kind/split"."""
    return _differing(_tables(connection, key), record)


def _differing(held: Mapping[tuple[str, str], Array], record: Mapping[str, Any]) -> list[str]:
    wanted = {(kind, split): pair for kind in ("unit", "row") for split, pair in record.get(kind, {}).items()}
    differing = [name for name in {*held, *wanted} if name not in held or name not in wanted]
    differing += [
        name for name, pair in wanted.items() if name in held and [len(held[name]), root(held[name])] != list(pair)
    ]
    return sorted("/".join(name) for name in differing)


def _read(connection: sa.Connection, key: tuple[str, str], record: Mapping[str, Any]) -> UnitDigests:
    held = _tables(connection, key)
    if _differing(held, record):
        raise schema.LedgerError(f"the digests of dataset {key[0]} are not those that were registered", fix=VERIFY)
    units = {split: digests for (kind, split), digests in held.items() if kind == "unit"}
    rows = {split: digests for (kind, split), digests in held.items() if kind == "row"}
    return UnitDigests(key_id=record["key_id"], units=units, rows=rows)


def _tables(connection: sa.Connection, key: tuple[str, str]) -> dict[tuple[str, str], Array]:
    table = schema.unit_digests
    ordered = (table.c.kind, table.c.split, table.c.part)
    query = sa.select(*ordered, table.c.data).where(table.c.dataset == key[0], table.c.span_key == key[1])
    joined: dict[tuple[str, str], list[bytes]] = {}
    for row in connection.execute(query.order_by(*ordered)):
        joined.setdefault((row.kind, row.split), []).append(bytes(row.data))
    return {name: _of_bytes(b"".join(parts)) for name, parts in joined.items()}


def _of_format_4(stored: Mapping[str, Any]) -> UnitDigests:
    """Return what format 4 kept in the journal: all digests of 128 bits, and for each split a bit for each of them."""
    joined = base64.b64decode(stored["digests"], validate=True)
    ordered = [joined[at : at + _DIGEST_BYTES] for at in range(0, len(joined), _OLDER_BYTES)]
    splits = {
        split: list(itertools.compress(ordered, _unpacked(bits, len(ordered))))
        for split, bits in stored.get("splits", {}).items()
    }
    arrays = {split: once([_of_bytes(b"".join(found))]) for split, found in (splits or {ALL: ordered}).items()}
    return UnitDigests(key_id=stored["key_id"], units=arrays)


def _unpacked(text: str, count: int) -> list[int]:
    number = int.from_bytes(base64.b64decode(text, validate=True), "big")
    return [int(bit) for bit in f"{number:0{count}b}"] if count else []
