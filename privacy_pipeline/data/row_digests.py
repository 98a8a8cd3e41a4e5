"""Keyed digests of rows, by which a table is known again that was shuffled, edited in places or written otherwise.

The digest of a row does not depend on the order of its columns, their names, blanks around a cell, the case of letters,
or how a number is written. It does on which columns there are.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

_BYTES = 8
_MOST_CELLS = 1_000_000
_SEPARATOR = "\x1f"


class RowHasher:
    """Digests rows of text, and records of bytes, to 64 bits (BLAKE2b, keyed).

    Args:
        secret: of the ledger; without it nobody can try rows against their digests.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._folded: dict[str, str] = {}

    def row(self, cells: Sequence[str]) -> bytes:
        """The digest of a row, 8 bytes.

        Args:
            cells: texts of its columns, in any order.
        """
        return self.record(_SEPARATOR.join(sorted(map(self._fold, cells))).encode("utf-8", "surrogateescape"))

    def record(self, content: bytes) -> bytes:
        """The digest of a record of bytes, 8 bytes."""
        return hashlib.blake2b(content, digest_size=_BYTES, key=self._secret).digest()

    def _fold(self, cell: str) -> str:
        known = self._folded.get(cell)
        if known is None:
            if len(self._folded) >= _MOST_CELLS:
                self._folded.clear()
            self._folded[cell] = known = folded(cell)
        return known


def folded(cell: str) -> str:
    """A cell as it is compared: numbers by their value, texts without case and blanks around them."""
    for text in (cell, plain_text(cell)):  # a number may have letters that cannot be seen
        try:
            return repr(float(text))
        except ValueError:
            continue
    return plain_text(cell)


def plain_text(text: str) -> str:
    """A text without what cannot be seen in it: composition, width, case, blanks around it, and format characters."""
    if not text.isascii():
        normal = unicodedata.normalize("NFKC", text)
        text = "".join(letter for letter in normal if unicodedata.category(letter) != "Cf")
    return text.strip().casefold()
