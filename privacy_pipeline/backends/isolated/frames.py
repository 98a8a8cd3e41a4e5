"""The bytes that a build answers with: a JSON header and plain arrays. Nothing is unpickled or decompressed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.errors import BadInputError

_PREFIX = 8
_LONGEST_HEADER = 256 << 20  # bytes: graphs and their constants
_DTYPES = frozenset({"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32", "bool"})
_NOT_ONE = "model: the answer of the build is not one"


def pack(header: Mapping[str, Any], arrays: Sequence[NDArray[Any]] = ()) -> bytes:
    """Return a header and arrays as bytes.

    Raises:
        BadInputError: an array is of a type that does not cross.
    """
    for array in arrays:
        if array.dtype.name not in _DTYPES:
            raise BadInputError(
                f"model: a weight has type {array.dtype.name}", fix=f"one of {', '.join(sorted(_DTYPES))}"
            )
    listed = [{"dtype": array.dtype.name, "shape": list(array.shape)} for array in arrays]
    text = json.dumps({**header, "arrays": listed}).encode()
    return b"".join(
        [len(text).to_bytes(_PREFIX, "big"), text, *(np.ascontiguousarray(one).tobytes() for one in arrays)]
    )


def unpack(content: bytes) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Return what `pack` was given; the header holds JSON values, of whatever form.

    Raises:
        BadInputError: the bytes are not of that form. They may be anything: a user's code wrote them.
    """
    try:
        start = _PREFIX + int.from_bytes(content[:_PREFIX], "big")
        if start > _LONGEST_HEADER:
            raise ValueError
        header = json.loads(content[_PREFIX:start])
        listed = header.pop("arrays")
        arrays = []
        for one in listed:
            dtype, shape = one["dtype"], one["shape"]
            if dtype not in _DTYPES or not all(type(size) is int and size >= 0 for size in shape):
                raise ValueError
            end = start + _count(shape) * np.dtype(dtype).itemsize
            if end > len(content):
                raise ValueError
            arrays.append(np.frombuffer(content[start:end], dtype).reshape(shape))
            start = end
        if start != len(content):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise BadInputError(_NOT_ONE, fix="let build_model return its model, and write nothing else") from None
    return header, arrays


def _count(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
