"""A private copy of a dataset's files: its digest is taken on the copy, and nothing but the copy is read after that.

A file may be swapped, or written in place, between two readings of it. So a command that charges a budget, or registers
what budgets are charged for, copies the files once. The copy is a clone of the file (`FICLONE` of
ioctl_ficlonerange(2)) where the file system shares blocks, else a plain one. A hard link would not protect: a write in
place goes through it. The copy lies in a folder of mode 0700 and goes with the context that took it; what a killed
process left is removed when the next copy is taken below the same folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from privacy_pipeline.data.files import ResolvedSource, unreadable
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.files.atomic import require_room
from privacy_pipeline.files.bounded import open_plain
from privacy_pipeline.files.file_rights import private_folder, refuse_if_others_may_replace

FOLDER = ".reading"  # of a workspace, or of a folder of experiments
FILES = "files"
_FICLONE = 0x40049409
_NO_CLONES = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM)
_BLOCK = 1 << 20
_LONGEST = 100  # characters that a copy keeps of its file's name
_ROOM = "free space for a private copy of the data, or put the workspace on a file system that clones files"
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, kw_only=True)
class PrivateCopy:
    """The copy while it is there.

    Attributes:
        folder: a folder for each split, with the copies of its files.
        source: the copies as a source, with their digests.
        cloned: whether every file is a clone, which takes no room of its own.
        originals: the file that each copy is of.
    """

    folder: Path
    source: ResolvedSource
    cloned: bool
    originals: Mapping[Path, Path]

    def named(self, text: str) -> str:
        """Return a text in which each copy has the name of its original."""
        for copy, original in self.originals.items():
            text = text.replace(str(copy), str(original))
        for copy, original in self.originals.items():
            text = text.replace(str(copy.parent), str(original.parent))
        return text

    @contextlib.contextmanager
    def original_names(self) -> Iterator[None]:
        """Let errors over the copy name the originals, which are what a person corrects."""
        try:
            yield
        except PipelineError as error:
            error.message, error.fix = self.named(error.message), self.named(error.fix)
            error.args = tuple(self.named(one) if isinstance(one, str) else one for one in error.args)
            raise

    def remove(self) -> None:
        """Remove the copy before its context ends; a process that holds it open may read on."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def taken(source: ResolvedSource, *, below: Path) -> Iterator[PrivateCopy]:
    """Copy the files of a source, digest the copies, and remove them at the end.

    Args:
        source: the files; of several spans too.
        below: where the copy lies, in a folder of its own; made for this user alone.

    Raises:
        BadInputError: a file cannot be read or is not a file, the disk has no room for the copy, or somebody else may
            put another folder in the place of `below`.
    """
    with _place(below) as place:
        yield _copied(source, place / FILES)


@contextlib.contextmanager
def _place(below: Path) -> Iterator[Path]:
    """Yield a folder that is held by a lock, beside which what nobody holds was removed."""
    refuse_if_others_may_replace(below)
    try:
        private_folder(below)
        with open(below / "lock", "a") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            _sweep(below)
            place = Path(tempfile.mkdtemp(dir=below))
            lock = open(place / "lock", "a")  # noqa: SIM115 (held to the end)
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise BadInputError(
            f"{below}: no copy of the data can be made there ({error.strerror})",
            fix="free space or give write permission, or set another `workspace`",
        ) from error
    with lock:
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _sweep(below: Path) -> None:
    for left in below.iterdir():
        if not left.is_dir() or left.is_symlink():
            continue
        with contextlib.suppress(OSError), open(left / "lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)


def _copied(source: ResolvedSource, folder: Path) -> PrivateCopy:
    files = [file for found in source.files.values() for file in found]
    folder.mkdir(mode=0o700)
    copier = _Copier(folder, sum(_size(file) for file in files))
    copies = dataclasses.replace(_each(source, copier), digests=copier.digests)
    return PrivateCopy(folder=folder, source=copies, cloned=copier.clones, originals=copier.originals)


def _each(source: ResolvedSource, copier: _Copier, head: str = "") -> ResolvedSource:
    """Return the source with a copy of each file; of several spans, of each of theirs."""
    if not source.parts:
        files = {
            split: tuple(copier.copy(file, f"{split}/{head}{number:05d}") for number, file in enumerate(found))
            for split, found in source.files.items()
        }
        return dataclasses.replace(source, files=files, digests=copier.digests)
    parts = {span: _each(part, copier, f"{span}-") for span, part in source.parts.items()}
    files = {split: tuple(file for part in parts.values() for file in part.files[split]) for split in source.files}
    return dataclasses.replace(source, files=files, parts=parts)


class _Copier:
    """Clones files while the file system does, and copies them plainly from the first that it does not."""

    def __init__(self, folder: Path, size: int) -> None:
        self.clones = True
        self.digests: dict[Path, str] = {}
        self.originals: dict[Path, Path] = {}
        self._folder, self._size = folder, size

    def copy(self, file: Path, place: str) -> Path:
        """Return the copy of a file; the end of its name, which shows how it is compressed, stays."""
        copy = self._folder / f"{place}-{_NOT_PLAIN.sub('_', file.name)[-_LONGEST:]}"
        copy.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            with open_plain(file) as given, open(copy, "xb+", opener=_private) as made:
                if not (self.clones and _is_clone(given, made)):
                    self._go_plainly()
                    self.digests[copy] = _written(given, made)
                else:
                    self.digests[copy] = _digest(made)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise BadInputError(f"{copy}: no space left for a private copy of {file}", fix=_ROOM) from error
            raise unreadable(file=file, error=error) from None
        self.originals[copy] = file
        return copy

    def _go_plainly(self) -> None:
        if self.clones:
            self.clones = False
            require_room(self._folder, self._size, fix=_ROOM)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _size(file: Path) -> int:
    try:
        state = file.stat()
    except OSError as error:
        raise unreadable(file=file, error=error) from None
    if not stat.S_ISREG(state.st_mode):
        raise BadInputError(f"{file}: is not a regular file", fix="let the pattern in dataset.input match files only")
    return state.st_size


def _is_clone(given: BinaryIO, made: BinaryIO) -> bool:
    try:
        fcntl.ioctl(made.fileno(), _FICLONE, given.fileno())
    except OSError as error:
        if error.errno in _NO_CLONES:
            return False
        raise
    return True


def _digest(made: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := made.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _written(given: BinaryIO, made: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := given.read(_BLOCK):
        digest.update(block)
        made.write(block)
    return digest.hexdigest()
