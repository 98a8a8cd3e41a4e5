"""SipHash-2-4 of 64-bit numbers, many at once: a keyed function whose values reveal nothing without the key.

Aumasson and Bernstein 2012, "SipHash: a fast short-input PRF".
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.uint64]
KEY_BYTES = 16
_START = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
_LENGTH = np.uint64(8 << 56)  # the last block of a message of 8 bytes


def siphash(values: Array, key: bytes) -> Array:
    """Return the values of the function.

    Args:
        values: each a message of 8 bytes, little-endian.
        key: 16 bytes.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes")
    halves = [int.from_bytes(key[at : at + 8], "little") for at in (0, 8)]
    state = [np.full(len(values), start ^ halves[at % 2], np.uint64) for at, start in enumerate(_START)]
    for block in (values, _LENGTH):
        state[3] ^= block
        _rounds(state, 2)
        state[0] ^= block
    state[2] ^= np.uint64(0xFF)
    _rounds(state, 4)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


def _rounds(state: list[Array], count: int) -> None:
    a, b, c, d = state
    for _ in range(count):
        a += b
        c += d
        _mix(b, 13, a)
        _mix(d, 16, c)
        _turn(a, 32)
        c += b
        a += d
        _mix(b, 17, c)
        _mix(d, 21, a)
        _turn(c, 32)


def _mix(one: Array, by: int, other: Array) -> None:
    _turn(one, by)
    one ^= other


def _turn(one: Array, by: int) -> None:
    """Rotates each number to the left, in place."""
    high = one >> np.uint64(64 - by)
    one <<= np.uint64(by)
    one |= high
