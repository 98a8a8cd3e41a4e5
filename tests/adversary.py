"""The adversary of differential privacy at a digest: knows a table but for one cell, and reads what left the host."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

CELLS = 101  # values that the unknown cell may have
LINE = 17  # of the unknown row


def worlds(file: Path, column: int) -> Iterator[tuple[str, bytes]]:
    """Each value that a cell may have, with the file's bytes where it has that; the true ones are among them."""
    lines = file.read_bytes().split(b"\n")
    cells = lines[LINE].decode().split(",")
    for number in range(CELLS):
        value = f"{number / 10 + 0.05:.2f}"
        lines[LINE] = ",".join([*cells[:column], value, *cells[column + 1 :]]).encode()
        yield value, b"\n".join(lines)


def digest_of(contents: dict[str, list[bytes]]) -> str:
    """The plain digest of a dataset, computed apart from the code under test."""
    entries = sorted((split, hashlib.sha256(one).hexdigest()) for split, found in contents.items() for one in found)
    return hashlib.sha256("".join(f"{split}\0{digest}\n" for split, digest in entries).encode()).hexdigest()


def recovered(digests: dict[str, str], text: str, *, oracle: Callable[[str], str] = lambda digest: digest) -> list[str]:
    """Values of the cell that a text gives away.

    Args:
        digests: the dataset's plain digest in each world, by the value.
        text: what left.
        oracle: what of a digest is looked for; its first 8 digits are enough.
    """
    return [value for value, digest in digests.items() if oracle(digest)[:8] in text]
