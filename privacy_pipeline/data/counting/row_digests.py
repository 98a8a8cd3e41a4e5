"""Keyed digests of rows, by which a table is known again that was shuffled, edited in places or written otherwise.

The digest of a row does not depend on the order of its columns, their names, blanks around a cell, the case of letters,
how a number is written, or whether the row is a line of CSV or a tf.train.Example. It does on which cells there are;
empty ones do not count. Of a number with decimals it takes what 32 bits hold, as Examples do. It is SipHash of the sum
of the keyed hashes of the row's cells, each under a key of its own, so that rows with cells in common do not show it
without the secret.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from operator import itemgetter

import numpy as np

from privacy_pipeline.data.counting.siphash import KEY_BYTES, Array, siphash
from privacy_pipeline.data.reading.csv_table import Cells
from privacy_pipeline.data.reading.example_keys import cells_of
from privacy_pipeline.data.schema.encoder import Texts
from privacy_pipeline.text.plain_text import plain_text

_BYTES = 8
_MOST_CELLS = 1_000_000


class RowHasher:
    """Digests rows of text, and records of bytes, to 64 bits.

    Args:
        secret: of the ledger; without it nobody can try rows against their digests.
    """

    def __init__(self, secret: bytes) -> None:
        self._record = hashlib.blake2b(key=secret, digest_size=_BYTES)
        self._text = hashlib.blake2b(key=_derived(secret, "text"), digest_size=_BYTES)
        self._number_key, self._row_key = (_derived(secret, what)[:KEY_BYTES] for what in ("number", "row"))
        self._known: dict[str, int] = {}

    def rows(self, rows: Sequence[Sequence[str]]) -> Array:
        """Return the digest of each row.

        Args:
            rows: texts of their columns, as many in each row, in any order.
        """
        total = np.zeros(len(rows), np.uint64)
        for at in range(len(rows[0]) if rows else 0):
            total += self._column(list(map(itemgetter(at), rows)))
        return siphash(total, self._row_key)

    def table(self, cells: Cells) -> Array:
        """Return the same of rows as `csv_table` reads them; of a text that comes often, the digest is made once."""
        total = np.zeros(cells.num_rows, np.uint64)
        for column in cells.columns:
            texts = Texts.of(column)
            total += texts.spread(self._column(texts.different.to_pylist()))
        return siphash(total, self._row_key)

    def records(self, records: Sequence[bytes]) -> Array:
        """Return the digest of each record: of a tf.train.Example as of the row it holds, else of its bytes."""
        found = [cells_of(record) for record in records]
        total = np.zeros(len(found), np.uint64)
        owners = np.repeat(np.arange(len(found)), [len(cells or ()) for cells in found])
        np.add.at(total, owners, self._column([cell for cells in found for cell in cells or ()]))
        digests = siphash(total, self._row_key)
        for at, cells in enumerate(found):
            if cells is None:
                digests[at] = int.from_bytes(_digest(self._record, records[at]), "big")
        return digests

    def _column(self, cells: Sequence[str]) -> Array:
        """Return hashes of cells: of numbers by their value, of texts without case and blanks around them."""
        try:
            return self._numbers(map(float, cells), len(cells))
        except ValueError:
            return self._looked_up(cells)

    def _looked_up(self, cells: Sequence[str]) -> Array:
        if len(self._known) > _MOST_CELLS:
            self._known.clear()
        missing = [cell for cell in set(cells) if cell not in self._known]
        numbers, texts = {}, []
        for cell in missing:
            value = _number(cell)
            if value is None:
                texts.append(cell)
            else:
                numbers[cell] = value
        self._known.update(zip(numbers, self._numbers(numbers.values(), len(numbers)).tolist(), strict=True))
        hashed = b"".join(_digest(self._text, text) if text else bytes(_BYTES) for text in map(_folded, texts))
        self._known.update(zip(texts, _as_numbers(hashed).tolist(), strict=True))
        return np.fromiter(map(self._known.__getitem__, cells), np.uint64, len(cells))

    def _numbers(self, values: Iterable[float], count: int) -> Array:
        found = np.fromiter(values, np.float64, count)
        decimals = found != np.rint(found)
        found[decimals] = found[decimals].astype(np.float32)
        found += 0.0  # -0 is 0
        found[np.isnan(found)] = np.nan
        return siphash(found.view(np.uint64), self._number_key)


def _number(cell: str) -> float | None:
    for text in (cell, plain_text(cell)):  # a number may have letters that cannot be seen
        try:
            return float(text)
        except ValueError:
            continue
    return None


def _derived(secret: bytes, what: str) -> bytes:
    return hmac.digest(secret, f"privacy-pipeline row digests: {what}".encode(), "sha256")


def _digest(keyed: hashlib.blake2b, content: bytes) -> bytes:
    hashed = keyed.copy()
    hashed.update(content)
    return hashed.digest()


def _folded(cell: str) -> bytes:
    return plain_text(cell).encode("utf-8", "surrogateescape")


def _as_numbers(joined: bytes) -> Array:
    return np.frombuffer(joined, ">u8").astype(np.uint64)
