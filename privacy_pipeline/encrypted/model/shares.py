"""Numbers in the ring, their secret shares, and the files that hold them. NumPy alone, for every party's process.

A number x is the integer round(x S) modulo 2^64, with a scale S, and that is the sum of three shares.
Server i holds the i-th and the one after it (replicated sharing; Araki et al., CCS 2016, and ABY3, Mohassel and Rindal,
CCS 2018). TF-Encrypted keeps them as `unwrapped[i][0]` and `unwrapped[i][1]`, a server's store in the files `NAME.0`
and `NAME.1`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.encrypted.model.layers import Input, Shape
from privacy_pipeline.errors import BadInputError, PipelineError

_LARGEST = 2.0**62  # integer
SERVERS = 3
_OUTPUT = "out"
_STORED = np.dtype("<i8")
_BATCH = re.compile(r"[A-Za-z0-9_-]{1,64}")

Ring = NDArray[np.int64]
Held = tuple[Ring, Ring]


def encode(values: NDArray[Any], *, scale: float) -> Ring:
    """Return fixed-point numbers of the same shape, each rounded to the nearest.

    Args:
        values: what is to be shared.
        scale: how many units make 1.

    Raises:
        BadInputError: a value is not a number, or beyond what the parties can compute with.
    """
    units = np.asarray(values, np.float64) * scale
    if not (np.abs(units) <= _LARGEST).all():  # a NaN is refused as well
        raise BadInputError(
            f"a value is not a number, or is beyond {_LARGEST / scale:g}", fix="scale it in preprocessing_fn"
        )
    ring: Ring = np.rint(units).astype(np.int64)
    return ring


def decode(ring: Ring, *, scale: float) -> NDArray[np.float64]:
    """Return the numbers that `encode` made the integers of."""
    values: NDArray[np.float64] = ring.astype(np.float64) / scale
    return values


def split(ring: Ring) -> tuple[Ring, Ring, Ring]:
    """Return three shares that sum to `ring` modulo 2^64; any two of them are uniform and independent of it.

    The randomness is the operating system's.
    """
    first, second = _uniform(ring.shape), _uniform(ring.shape)
    third = ring.view(np.uint64) - first - second  # unsigned: wraps around by definition
    return first.view(np.int64), second.view(np.int64), third.view(np.int64)


def _uniform(shape: Shape) -> NDArray[np.uint64]:
    return np.frombuffer(os.urandom(8 * math.prod(shape)), np.uint64).reshape(shape)


def held(shares: Sequence[Ring], server: int) -> Held:
    """Return the two shares of three that the server 0, 1 or 2 holds."""
    return shares[server], shares[(server + 1) % SERVERS]


def join(pairs: Sequence[Held]) -> Ring:
    """Return the integers that the shares of all three servers make.

    Args:
        pairs: what servers 0, 1 and 2 hold, all of one shape.

    Raises:
        PipelineError: shapes differ, or two servers disagree about a share that both hold: one of them is at fault.
    """
    if len(pairs) != SERVERS or len({share.shape for pair in pairs for share in pair}) != 1:
        raise PipelineError("the servers' shares have different shapes: no answer")
    for server in range(SERVERS):
        after = (server + 1) % SERVERS
        if not np.array_equal(pairs[server][1], pairs[after][0]):
            raise PipelineError(f"server{server} and server{after} disagree about a share of the answer: no answer")
    first, second, third = (pair[0].view(np.uint64) for pair in pairs)
    return (first + second + third).view(np.int64)


def encoded_shape(one: Input) -> Shape:
    """Return the shape of one row of an input as it is shared: an integer becomes a one-hot vector, last."""
    return (*one.shape, one.vocabulary) if one.vocabulary else one.shape


def weight_stem(layer: str, role: str) -> Path:
    """Return where the shares of a weight are in a store, without `.0` or `.1`; safe for any layer name."""
    return Path("weights") / f"{quote(layer, safe=':')}~{quote(role, safe='')}"


def input_stem(batch: str, name: str) -> Path:
    """Return where the shares of an input of a batch are in a store, without `.0` or `.1`.

    Raises:
        PipelineError: the batch's id is not 1 to 64 letters, digits, `-` and `_`.
    """
    quoted = quote(name, safe="")
    return _in_batch(batch, quoted if quoted != _OUTPUT else f"%{_OUTPUT}")


def output_stem(batch: str) -> Path:
    """Return where a server leaves its shares of a batch's logits, as `input_stem`."""
    return _in_batch(batch, _OUTPUT)


def _in_batch(batch: str, name: str) -> Path:
    if not _BATCH.fullmatch(batch):
        raise PipelineError("a batch's id is 1 to 64 letters, digits, - and _")
    return Path("batches") / f"{batch}.{name}"


def half(stem: Path, number: int) -> Path:
    """Return the file of the first (0) or second (1) share that a server holds."""
    return stem.with_name(f"{stem.name}.{number}")


def to_bytes(share: Ring) -> bytes:
    """Return a share as it is stored and sent: little-endian, C order."""
    return np.ascontiguousarray(share, _STORED).tobytes()


def from_bytes(content: bytes, shape: Shape) -> Ring:
    """Return the share that `to_bytes` made bytes of.

    Raises:
        PipelineError: the number of bytes is another.
    """
    if len(content) != _STORED.itemsize * math.prod(shape):
        raise PipelineError(f"a share has {len(content)} bytes, not those of {shape} integers of 64 bits")
    return np.frombuffer(content, _STORED).reshape(shape).astype(np.int64)
