"""What a client sends and a server reads under distributed noise: rotation, rounding to whole numbers, wrapping.

Kairouz, Liu and Steinke 2021 (arXiv 2102.06387), algorithms 1 and 2. A vector is clipped, padded to a power of two,
rotated by a randomized Hadamard matrix, scaled, and rounded to whole numbers at random such that its norm stays within
a bound: what is over it is rounded again. Rotation and scale decide accuracy alone, the bound decides privacy. NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.errors import PipelineError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
BETA = math.exp(-0.5)  # chance of another try, at most, as in the paper's experiments
_CLIP_ROOM = 1 - 2.0**-40  # float64 sums of squares may round down
_MOST_TRIES = 2000  # all of them fail with a chance below BETA^2000 = 2^-1442


def padded_size(numbers: int) -> int:
    """Return the least power of two that is not below a number."""
    return 1 << max(0, numbers - 1).bit_length()


def squared_norm_bound(norm: float, dimension: int) -> int:
    """Return a bound on the squared L2 norm of a randomly rounded vector; it holds with chance 1 - BETA or more.

    Kairouz, Liu and Steinke 2021, proposition 22: the lesser of (norm + sqrt(d))^2, which always holds, and
    norm^2 + d/4 + sqrt(2 log(1/beta)) (norm + sqrt(d)/2). Rounded down: the square of whole numbers is one.

    Args:
        norm: L2 bound of the vector before, in steps of the grid.
        dimension: numbers of the vector, d.
    """
    root = math.sqrt(dimension)
    likely = norm**2 + dimension / 4 + math.sqrt(2 * math.log(1 / BETA)) * (norm + root / 2)
    return math.floor(min((norm + root) ** 2, likely))


def clipped(updates: Floats, norm: float) -> Floats:
    """Return rows scaled to an L2 norm of at most `norm`; a row that is not finite becomes zero.

    Args:
        updates: float64, [clients, numbers].
        norm: the bound.
    """
    finite = np.isfinite(updates).all(axis=1, keepdims=True)
    kept = np.where(finite, updates, 0.0)
    largest = np.abs(kept).max(axis=1, keepdims=True, initial=1e-300)
    length = largest * np.linalg.norm(kept / largest, axis=1, keepdims=True)  # squares of large numbers overflow
    return np.asarray(kept * np.minimum(1.0, norm * _CLIP_ROOM / np.maximum(length, 1e-300)))


def signs(dimension: int, *, seed: int, round_number: int) -> Floats:
    """Return the random signs of a round's rotation, -1 or 1, float64 [dimension]. They are public: no privacy rests on
    them.

    Args:
        dimension: how many.
        seed: public, the same for all clients.
        round_number: the round.
    """
    generator = np.random.Generator(np.random.Philox(key=seed, counter=round_number << 64))
    return np.asarray(1.0 - 2.0 * generator.integers(0, 2, dimension))


def hadamard(rows: Floats) -> Floats:
    """Return each row times the Hadamard matrix over the square root of its size: orthogonal, and its own inverse.

    Args:
        rows: float64, [rows, d], d a power of two.
    """
    count, dimension = rows.shape
    found, width = rows, 1
    while width < dimension:
        halves = found.reshape(count, dimension // (2 * width), 2, width)
        found = np.stack([halves[:, :, 0] + halves[:, :, 1], halves[:, :, 0] - halves[:, :, 1]], axis=2)
        width *= 2
    return np.asarray(found.reshape(count, dimension) / math.sqrt(dimension))


def rotated(rows: Floats, flips: Floats) -> Floats:
    """Return rows, padded with zeros, times signs, times Hadamard.

    Args:
        rows: float64, [rows, numbers].
        flips: see `signs`, [d].
    """
    padded = np.zeros((rows.shape[0], flips.size))
    padded[:, : rows.shape[1]] = rows
    return hadamard(padded * flips)


def unrotated(row: Floats, flips: Floats, numbers: int) -> Floats:
    """Return what `rotated` made one row of, float64 [numbers]."""
    return np.asarray((hadamard(row[np.newaxis])[0] * flips)[:numbers])


def rounded(row: Floats, *, squared_norm: int, uniform: Callable[[int], Floats]) -> Integers:
    """Return a vector rounded up or down at random, without bias for each number, again until it is within the bound.

    The bound holds whatever the vector was. What keeps being over it was not clipped: that is an error, not a release.

    Args:
        row: float64 [d], in steps of the grid.
        squared_norm: bound of the squared L2 norm of the result.
        uniform: gives that many numbers in [0, 1).

    Raises:
        PipelineError: the vector is too long.
    """
    # So that the sums of squares below cannot leave int64; a clipped vector is within the bound before it is rounded.
    if not np.linalg.norm(row) <= 2 * (math.sqrt(squared_norm) + 1):
        raise PipelineError("an encoded update is far over its bound: what ran is not what is accounted for")
    down = np.floor(row)
    up, whole = row - down, down.astype(np.int64)
    for _ in range(_MOST_TRIES):
        found = whole + (uniform(row.size) < up)
        if int(np.square(found).sum()) <= squared_norm:
            return np.asarray(found)
    raise PipelineError("an encoded update stays over its bound: what ran is not what is accounted for")


def wrapped(values: Integers, bits: int) -> Integers:
    """Return whole numbers modulo 2^bits, from -2^(bits - 1) to 2^(bits - 1) - 1, int64."""
    half = np.int64(1 << (bits - 1))
    return np.asarray(((values + half) & np.int64((1 << bits) - 1)) - half)
