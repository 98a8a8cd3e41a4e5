"""Files that are either whole or absent, and folders that can take them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.file_rights import make_folders

_PART = ".part"


def write_atomically(*, path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` through a temporary file beside it; make missing folders.

    This user alone may read it: files come from private data, and a user who publishes one gives it other rights.

    Args:
        path: the file; replaced as a whole if it exists.
        text: its content.

    Raises:
        BadInputError: the folder or the file cannot be written (no permission, disk full, ...).
    """
    write_bytes_atomically(path=path, content=text.encode())


def write_bytes_atomically(*, path: Path, content: bytes) -> None:
    """Write `content` to `path` as `write_atomically` does.

    Args:
        path: the file; replaced as a whole if it exists.
        content: its content.

    Raises:
        BadInputError: the folder or the file cannot be written (no permission, disk full, ...).
    """
    try:
        make_folders(path.parent)
        write_whole(path=path, content=content)
    except OSError as error:
        raise BadInputError(
            f"{path}: cannot be written ({error.strerror})", fix="choose another folder, or free space and rights"
        ) from None


def write_whole(*, path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file as a whole, or make it.

    Args:
        path: the file; its folder is there.
        content: its content.
        mode: its rights.

    Raises:
        OSError: it cannot be written, or something else than a file is there, such as a device or a pipe; what was
            there stays.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with _beside(path, content, mode) as waiting:
        os.replace(waiting, path)


def write_new(*, path: Path, content: bytes) -> bool:
    """Make a file of mode 0600 with `content`, whole or not at all; one that is there stays as it is.

    Args:
        path: the file; its folder is there.
        content: its content.

    Returns:
        Whether it was made.

    Raises:
        OSError: it cannot be written.
    """
    with _beside(path, content, 0o600) as waiting:
        try:
            os.link(waiting, path)
        except FileExistsError:
            return False
    return True


def sweep(path: Path) -> None:
    """Remove what killed writers of a file left beside it, or beside files named after it with a key's id.

    A writer that lives holds a lock on what it writes, and keeps it.

    Args:
        path: the file, there or not.

    Raises:
        OSError: its folder cannot be read.
    """
    left = re.compile(rf"\.{re.escape(path.name)}(\.[0-9a-f]{{16}})?\.[a-z0-9_]{{8}}{re.escape(_PART)}")
    for file in path.parent.iterdir():
        if left.fullmatch(file.name):
            with contextlib.suppress(OSError), file.open("rb+") as stream:  # in use, or removed by somebody else
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()


@contextlib.contextmanager
def _beside(path: Path, content: bytes, mode: int) -> Iterator[str]:
    """Open a whole file beside `path`, on disk and held by a lock; remove it at the end unless it was moved."""
    sweep(path)
    stream, waiting = _held(path)
    with stream:
        try:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
            yield waiting
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(waiting)


def _held(path: Path) -> tuple[BinaryIO, str]:
    while True:
        handle, waiting = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_PART, dir=path.parent)
        stream = os.fdopen(handle, "wb")
        fcntl.flock(stream, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:  # nobody took it for one that was left, before it was locked
            return stream, waiting
        stream.close()


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is within such a block for the same folder; a lock ends with its process.

    Raises:
        OSError: there is no such folder.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def require_room(folder: Path, size: int, *, fix: str) -> None:
    """Prove that a folder can be written, and that its disk has room for what is to come; make missing folders.

    Args:
        folder: the folder.
        size: bytes that are to be written later.
        fix: what to do otherwise.

    Raises:
        BadInputError: the folder cannot be written, or its disk has less than `size` bytes free.
    """
    try:
        make_folders(folder)
        with tempfile.TemporaryFile(dir=folder) as probe:  # without a name, so that a kill leaves none
            probe.write(b"x" * 4096)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise BadInputError(f"{folder}: cannot be written ({error.strerror})", fix=fix) from error
    if free < size:
        raise BadInputError(
            f"{folder}: {size / 1e6:,.1f} MB are to be written, and {free / 1e6:,.1f} MB are free on its disk", fix=fix
        )
