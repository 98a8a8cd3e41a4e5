"""Gaussian noise from ChaCha20, keyed from the operating system, as a function of the run's key and the step.

TensorFlow's own generators are not used: an unseeded op has 32 bits of entropy, and Philox is not cryptographic.
ChaCha20 with NumPy's vectorised Box-Muller is also several times faster than either on a CPU.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.dp.randomness import RunKey

_PLAIN, _HARDENED = "noise", "hardened noise"


def _keystream(key: bytes, step: int, size: int) -> bytes:
    """`size` bytes of ChaCha20 (RFC 8439) for a step: 32 bits of block counter, then a nonce that is the step."""
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

    nonce = struct.pack("<IIQ", 0, 0, step)
    return Cipher(ChaCha20(key, nonce), mode=None).encryptor().update(bytes(size))


_BYTES_A_PAIR = 12  # 8 for the radius, 4 for the angle


def box_muller_32(raw: bytes) -> NDArray[np.float32]:
    """Standard normal float32 numbers, two from each 12 bytes (Box and Muller 1958).

    The radius comes from 64 bits, so it reaches 9.5: with 32 bits it would end at 6.8, and over many coordinates and
    steps the cut tail would no longer be small beside delta.
    """
    half = len(raw) // _BYTES_A_PAIR
    uniform = np.frombuffer(raw, np.uint64, half).astype(np.float64)
    uniform += 0.5
    uniform *= 2.0**-64
    np.log(uniform, out=uniform)
    uniform *= -2.0
    radius = np.sqrt(uniform, out=uniform).astype(np.float32)
    angle = np.frombuffer(raw, np.uint32, half, offset=8 * half).astype(np.float32)
    angle *= np.float32(2.0 * np.pi * 2.0**-32)
    normal = np.empty(2 * half, np.float32)
    np.cos(angle, out=normal[:half])
    np.sin(angle, out=normal[half:])
    normal[:half] *= radius
    normal[half:] *= radius
    return normal


def box_muller_64(raw: bytes) -> NDArray[np.float64]:
    """Standard normal float64 numbers, one from each 8 bytes; their count is even."""
    uniform = ((np.frombuffer(raw, np.uint64) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    half = uniform.size // 2
    radius, angle = np.sqrt(-2.0 * np.log(uniform[:half])), 2.0 * np.pi * uniform[half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])


@dataclass(frozen=True)
class GaussianNoise:
    """Standard normal noise for each step of a run.

    Hardened: one Gaussian in floating point has gaps among its values that can give away the value it hides (Mironov
    2012, "On Significance of the Least Significant Bits for Differential Privacy"); against the sum of several, drawn
    in float64, an attacker has to search the combinations of their draws (Holohan and Braghin 2021, arXiv 2107.10138,
    section 4). Four are summed and halved. This resists that attack; it is no proof of exactness, the sum is rounded
    to the variables' dtype, and timing is not covered.

    Attributes:
        key: the run's key.
        shapes: shapes of the variables that noise is for.
        hardened: sum four float64 Gaussians instead of drawing one float32.
    """

    key: RunKey
    shapes: Sequence[tuple[int, ...]]
    hardened: bool = False

    @property
    def generator(self) -> str:
        """What the noise comes from, for the record."""
        how = "sum of four Box-Muller Gaussians, float64" if self.hardened else "Box-Muller, float32"
        return f"ChaCha20 with a 256-bit key; {how}"

    def normal(self, step: int, size: int) -> NDArray[Any]:
        """Standard normal numbers of a step, float32 (hardened: float64), [size]."""
        key = self.key.derive(_HARDENED if self.hardened else _PLAIN, 32)
        if self.hardened:
            four = box_muller_64(_keystream(key, step, 4 * size * 8)).reshape(4, size)
            return np.asarray(four.sum(axis=0) / 2.0)
        pairs = (size + 1) // 2
        return box_muller_32(_keystream(key, step, pairs * _BYTES_A_PAIR))[:size]

    def draw(self, step: int, *, stddev: float) -> tuple[NDArray[np.float32], ...]:
        """Noise of a step for each variable, float32, in the variables' shapes.

        Args:
            step: number of the step; no two steps share noise, and a step's noise can be drawn again.
            stddev: standard deviation.
        """
        sizes = [int(np.prod(shape, dtype=np.int64)) for shape in self.shapes]
        flat = (self.normal(step, sum(sizes)) * stddev).astype(np.float32, copy=False)
        parts = np.split(flat, np.cumsum(sizes)[:-1])
        return tuple(part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True))
