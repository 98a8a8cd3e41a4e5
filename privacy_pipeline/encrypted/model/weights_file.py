"""Weights from an npz archive that somebody else may have made: nothing is unpickled, decompressed or guessed.

`numpy.savez` stores float64 arrays as they are. What is not of that form is refused before it takes memory.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
_ENTRY_OVERHEAD = 1 << 12  # bytes that names and headers of one array take at most
# Format 1.0 of `numpy.lib.format`, and nothing else that Python could evaluate.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<f8', 'fortran_order': (True|False), 'shape': \(([0-9, ]*)\), \} *\n", re.DOTALL
)


def largest(wanted: Mapping[str, Shape]) -> int:
    """Return the largest size in bytes of an archive of these weights.

    Args:
        wanted: shapes by name.
    """
    return _ENTRY_OVERHEAD + sum(8 * math.prod(shape) + _ENTRY_OVERHEAD for shape in wanted.values())


def packed(weights: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the archive of these weights, by name; the same bytes for the same weights."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.asarray(value, np.float64) for name, value in sorted(weights.items())})
    return buffer.getvalue()


def read(packed: bytes, wanted: Mapping[str, Shape]) -> dict[str, NDArray[np.float64]]:
    """Return the weights by name.

    Args:
        packed: the archive.
        wanted: shapes by name; the archive holds these arrays and no others.

    Raises:
        ValueError: it is not such an archive.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            entries = archive.infolist()
            names = [entry.filename.removesuffix(".npy") for entry in entries]
            if sorted(names) != sorted(wanted):
                odd = sorted(set(wanted) ^ set(names)) or names
                raise ValueError(f"weights and architecture differ in {', '.join(odd[:3])}")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError("its arrays are compressed")
            # Stored arrays are at most as long as the archive itself, whatever its directory states.
            held = {name: archive.read(entry) for name, entry in zip(names, entries, strict=True)}
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"it is not an archive of arrays ({error})") from error
    return {name: _array(name, held[name], shape) for name, shape in wanted.items()}


def _array(name: str, content: bytes, shape: Shape) -> NDArray[np.float64]:
    header = _HEADER.match(content)
    sizes = "" if header is None else header[2].decode().replace(" ", "").rstrip(",")
    if header is None or sizes != ",".join(map(str, shape)):
        raise ValueError(f"weight '{name}' is not an array of float64{shape}")
    if len(content) - header.end() != 8 * math.prod(shape):
        raise ValueError(f"weight '{name}' is cut off, or too long")
    values = np.frombuffer(content, "<f8", offset=header.end())
    return values.reshape(shape, order="F" if header[1] == b"True" else "C").astype(np.float64)
