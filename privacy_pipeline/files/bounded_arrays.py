"""Arrays from files that may have been changed: nothing is unpickled or decompressed, and no size is believed.

What a header announces is compared with the bytes that are there before an array is made of them.
"""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.errors import BadInputError, brief

Array = NDArray[Any]
_MOST_ARRAYS = 100_000
_LARGEST_HEADER = 1 << 14  # bytes that `numpy` may evaluate
_READERS: Any = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_archive(path: Path, *, fix: str) -> dict[str, Array]:
    """Return the arrays of what `numpy.savez` wrote, by name.

    Args:
        path: the archive.
        fix: what a person does about one that cannot be used.

    Raises:
        OSError: it cannot be read.
        BadInputError: it is not an archive, or an array is compressed, holds objects or differs in length from its
            header.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > _MOST_ARRAYS or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError("its arrays are compressed, or too many")
            if len({entry.filename for entry in entries}) != len(entries):
                raise ValueError("a name is given twice")
            # Stored entries that lie beside each other are together no longer than the file.
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise ValueError("its arrays are larger than itself")
            return {entry.filename.removesuffix(".npy"): _array(archive.read(entry)) for entry in entries}
    except (ValueError, EOFError, OverflowError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise BadInputError(f"{path}: is not an archive of arrays ({_brief(error)})", fix=fix) from None


def open_array(path: Path, *, fix: str) -> Array:
    """Return the array of a `.npy` file, memory-mapped and read-only.

    Args:
        path: the file.
        fix: what a person does about one that cannot be used.

    Raises:
        OSError: it cannot be read.
        BadInputError: it holds no plain array, or differs in length from its header.
    """
    try:
        with path.open("rb") as stream:
            shape, dtype, start = _header(stream)
        if path.stat().st_size - start != math.prod(shape) * dtype.itemsize:
            raise ValueError("it is cut off, or too long")
        found: Array = np.load(path, mmap_mode="r" if math.prod(shape) else None, allow_pickle=False)
    except (ValueError, EOFError, OverflowError) as error:
        raise BadInputError(f"{path}: is not an array ({_brief(error)})", fix=fix) from None
    return found


def _brief(error: Exception) -> str:
    return brief(" ".join(str(error).split()), most=200)


def _array(content: bytes) -> Array:
    stream = io.BytesIO(content)
    shape, dtype, start = _header(stream)
    if len(content) - start != math.prod(shape) * dtype.itemsize:
        raise ValueError("an array is cut off, or too long")
    stream.seek(0)
    found: Array = np.lib.format.read_array(stream, allow_pickle=False)  # type: ignore[no-untyped-call]
    return found


def _header(stream: Any) -> tuple[tuple[int, ...], Any, int]:
    """Return the shape, type and place of the first value.

    Raises:
        ValueError: it is not a header of a plain array.
    """
    version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
    if version not in _READERS:
        raise ValueError(f"format {version} is not read")
    try:
        shape, _, dtype = _READERS[version](stream, max_header_size=_LARGEST_HEADER)
    except (SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        raise ValueError("its header is damaged") from None
    if dtype.hasobject or any(size < 0 for size in shape) or (dtype.itemsize == 0 and math.prod(shape)):
        raise ValueError("it holds objects, or a size that no array has")
    return shape, dtype, stream.tell()
