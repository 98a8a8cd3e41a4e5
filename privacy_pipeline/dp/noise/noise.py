"""Gaussian noise from ChaCha20, keyed from the operating system, as a function of the run's key and the step.

TensorFlow's own generators are not used: an unseeded op has 32 bits of entropy, and Philox is not cryptographic.
ChaCha20 with NumPy's vectorised Box-Muller is also several times faster than either on a CPU.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.config.models.ranges import NOISE_STDDEV
from privacy_pipeline.dp.graphs.buffers import ALIGNMENT, aligned_empty
from privacy_pipeline.dp.graphs.randomness import RunKey

_PLAIN, _HARDENED = "noise", "hardened noise"


def keystream(key: bytes, step: int) -> Any:
    """Return an encryptor of ChaCha20 (RFC 8439) for a step: 32 bits of block counter, then a nonce: the step."""
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

    return Cipher(ChaCha20(key, struct.pack("<IIQ", 0, 0, step)), mode=None).encryptor()


_BYTES_A_PAIR = 12  # 8 for the radius, 4 for the angle
# Pairs that are worked on at once: what they need, 30 bytes each, stays in a core's second-level cache.
_PAIRS_AT_ONCE = 16_384
_ZEROS = memoryview(bytes(_BYTES_A_PAIR * _PAIRS_AT_ONCE))
_ALIGNED = ALIGNMENT // 4  # float32 numbers


def box_muller_32(raw: bytes, *, stddev: float = 1.0, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return normal float32 numbers of mean 0, two from each 12 bytes (Box and Muller 1958).

    The radius comes from 63 bits and is computed in float64, so it reaches 9.4 standard deviations: with 32 bits it
    would end at 6.8, and over many coordinates and steps the cut tail would no longer be small beside delta. Numbers
    are drawn at unit scale and multiplied last: at another scale a squared radius leaves float32 before its root does.

    Args:
        raw: uniform bytes, a multiple of 12.
        stddev: standard deviation, in `ranges.NOISE_STDDEV`.
        out: where to put the numbers, [len(raw) / 6].
    """
    half = len(raw) // _BYTES_A_PAIR
    # Signed integers become floats several times as fast as unsigned ones.
    uniform = (np.frombuffer(raw, np.uint64, half) >> np.uint64(1)).view(np.int64) + 0.5
    uniform *= 2.0**-63
    np.log(uniform, out=uniform)
    uniform *= -2.0
    radius = uniform.astype(np.float32)
    np.sqrt(radius, out=radius)
    angle = np.frombuffer(raw, np.int32, half, offset=8 * half).astype(np.float32)
    angle *= np.float32(np.pi * 2.0**-31)
    normal = np.empty(2 * half, np.float32) if out is None else out
    np.cos(angle, out=normal[:half])
    np.sin(angle, out=normal[half:])
    normal[:half] *= radius
    normal[half:] *= radius
    return scaled(normal, stddev, out=normal)


def scaled(normal: NDArray[np.float32], stddev: float, *, out: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return numbers of unit scale times a standard deviation: the last step of every draw.

    Args:
        normal: numbers of unit scale, float32.
        stddev: standard deviation, in `ranges.NOISE_STDDEV`.
        out: where to put the products; may be `normal`.

    Raises:
        BadInputError: the standard deviation is out of range, so that float32 does not hold the noise.
    """
    NOISE_STDDEV.require("standard deviation of the noise", stddev)
    if stddev == 1.0 and out is normal:
        return out
    product: NDArray[np.float32] = np.multiply(normal, np.float32(stddev), out=out)
    return product


def box_muller_64(raw: bytes) -> NDArray[np.float64]:
    """Return standard normal float64 numbers, one from each 8 bytes; their count is even."""
    uniform = ((np.frombuffer(raw, np.uint64) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    half = uniform.size // 2
    radius, angle = np.sqrt(-2.0 * np.log(uniform[:half])), 2.0 * np.pi * uniform[half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])


def _room(shape: tuple[int, ...]) -> int:
    return -(-math.prod(shape) // _ALIGNED) * _ALIGNED


def total_size(shapes: Sequence[tuple[int, ...]]) -> int:
    """Return the numbers of a step's noise for variables of some shapes, in one array; a few go unused.

    One tensor is handed to TensorFlow much faster than many, and each part begins where it can be used in place.
    """
    return sum(_room(shape) for shape in shapes)


def split_flat(flat: Any, shapes: Sequence[tuple[int, ...]]) -> list[tuple[Any, tuple[int, ...]]]:
    """Return each variable's part of a step's noise, [numbers], with its shape.

    Args:
        flat: array or tensor, [total_size(shapes)].
        shapes: shapes of the variables.
    """
    starts = accumulate((_room(shape) for shape in shapes), initial=0)
    return [(flat[start : start + math.prod(shape)], shape) for start, shape in zip(starts, shapes, strict=False)]


@dataclass(frozen=True)
class GaussianNoise:
    """Standard normal noise for each step of a run.

    Hardened: one Gaussian in floating point has gaps among its values that can give away the value it hides (Mironov
    2012, "On Significance of the Least Significant Bits for Differential Privacy"); against the sum of several, drawn
    in float64, an attacker has to search the combinations of their draws (Holohan and Braghin 2021, arXiv 2107.10138,
    section 4). Four are summed and halved. This resists that attack; it does not prove exactness, the sum is rounded
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

    def draw(self, step: int, *, stddev: float) -> tuple[NDArray[np.float32], ...]:
        """Return the noise of a step for each variable, float32, in the variables' shapes; see `flat`."""
        flat = self.flat(step, stddev=stddev)
        return tuple(part.reshape(shape) for part, shape in split_flat(flat, self.shapes))

    def flat(self, step: int, *, stddev: float) -> NDArray[np.float32]:
        """Return the noise of a step for all variables, float32, [total_size(shapes)]; `split_flat` takes it apart.

        Args:
            step: number of the step; no two steps share noise, and a step's noise can be drawn again.
            stddev: standard deviation.
        """
        return self._normal(step, total_size(self.shapes), stddev)

    def _normal(self, step: int, size: int, stddev: float) -> NDArray[np.float32]:
        """Return normal numbers of a step, float32, [size]; `size` is even."""
        NOISE_STDDEV.require("standard deviation of the noise", stddev)
        stream = keystream(self.key.derive(_HARDENED if self.hardened else _PLAIN, 32), step)
        normal: NDArray[np.float32] = aligned_empty([size], np.float32)
        for start in range(0, size, 2 * _PAIRS_AT_ONCE):
            part = normal[start : start + 2 * _PAIRS_AT_ONCE]
            if self.hardened:
                four = box_muller_64(stream.update(bytes(4 * part.size * 8))).reshape(4, -1)
                # The scale comes last, in float64: four.sum / 2 is a standard normal number.
                np.multiply(four.sum(axis=0), stddev / 2.0, out=part, casting="same_kind")
            else:
                raw = stream.update(_ZEROS[: part.size // 2 * _BYTES_A_PAIR])
                box_muller_32(raw, stddev=stddev, out=part)
        return normal
