"""Files that are either whole or absent, and folders that can take them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from privacy_pipeline.errors import BadInputError


def write_atomically(*, path: Path, text: str) -> None:
    """Writes `text` (UTF-8) to `path` through a temporary file beside it; makes missing folders.

    This user alone may read it: files come from private data, and whoever publishes one gives it other rights.

    Args:
        path: the file; replaced as a whole if it exists.
        text: its content.

    Raises:
        BadInputError: the folder or the file cannot be written (no permission, disk full, ...).
    """
    write_bytes_atomically(path=path, content=text.encode())


def write_bytes_atomically(*, path: Path, content: bytes) -> None:
    """Writes `content` to `path` as `write_atomically` does.

    Args:
        path: the file; replaced as a whole if it exists.
        content: its content.

    Raises:
        BadInputError: the folder or the file cannot be written (no permission, disk full, ...).
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise BadInputError(
            f"{path}: cannot be written ({error.strerror})", fix="choose another folder, or free space and rights"
        ) from None


def require_room(folder: Path, size: int, *, fix: str) -> None:
    """Proves that a folder can be written, and that its disk has room for what is to come; makes missing folders.

    Args:
        folder: the folder.
        size: bytes that are to be written later.
        fix: what to do otherwise.

    Raises:
        BadInputError: the folder cannot be written, or its disk has less than `size` bytes free.
    """
    probe = folder / f".probe-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
        raise BadInputError(f"{folder}: cannot be written ({error.strerror})", fix=fix) from error
    if free < size:
        raise BadInputError(
            f"{folder}: {size / 1e6:,.1f} MB are to be written, and {free / 1e6:,.1f} MB are free on its disk", fix=fix
        )
