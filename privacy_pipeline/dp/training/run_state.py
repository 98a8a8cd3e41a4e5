"""A run's key and its progress on disk, so that a run that was killed goes on to the same weights. No TensorFlow.

Samples and noise are functions of the key and the step (see `randomness`): a replayed step adds the same noise to the
same sum and so releases nothing new. That holds only while data, model and plan are the same. The same noise on another
sum would give away the difference of the two, so the key is bound to all of them and destroyed on any mismatch; what
changes between steps is for `replays`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.dp.graphs.randomness import KEY_BYTES, RunKey
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.files.bounded_arrays import read_archive
from privacy_pipeline.files.file_rights import make_folders

CHECKPOINT_SECONDS = 10.0  # time between checkpoints: what a kill may cost in work, never in privacy
_VERSION = 1
_KEY, _CHECKPOINT, _PARTIAL = "key.json", "checkpoint.npz", ".partial"
PROGRESS, CHANGES = "progress", "changes.jsonl"
_STEP, _MAC = "step", "mac"


class StateMismatch(PipelineError):  # noqa: N818
    """The state of a run did not fit its continuation; it is destroyed. What ran before and a new run are charged."""


def has_state(folder: Path) -> bool:
    """Return whether a folder holds a key and a checkpoint; whether they fit is known once they are opened."""
    return (folder / _KEY).is_file() and (folder / _CHECKPOINT).is_file()


def destroy_state(folder: Path) -> None:
    """Overwrite and unlink all that a run keeps, and its folder if it is empty then; do nothing where nothing is.

    Journaling file systems and flash storage may keep old blocks: the key's protection is its folder's, not this.
    """
    _destroy_files(folder)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _destroy_files(folder: Path) -> None:
    for path in [path for name in (_KEY, _CHECKPOINT, PROGRESS, CHANGES) for path in folder.glob(f"{name}*")]:
        if not path.is_symlink():
            with path.open("r+b") as stream:
                stream.write(bytes(path.stat().st_size))
                stream.flush()
                os.fsync(stream.fileno())
        path.unlink()
    if folder.is_dir():
        _sync_folder(folder)


@dataclass(frozen=True)
class RunState:
    """A run's key and its last checkpoint.

    Attributes:
        folder: where they are; rights 0700.
        key: the run's key. It is in no `repr`; it never belongs into a log or a record.
        resumed: there is a checkpoint to go on from.
    """

    folder: Path
    key: RunKey
    resumed: bool

    @classmethod
    def open_or_create(cls, folder: Path, binding: str, *, key: RunKey | None = None) -> RunState:
        """Return the state that a folder holds, or a new one.

        A key without a checkpoint drew no noise yet, since a checkpoint precedes the first step; it is replaced.

        Args:
            folder: the run's folder, made with rights 0700.
            binding: digest of all that the noise must never be reused across: plan, model, data, versions.
            key: what a new state gets; from the operating system without it. One from a seed must be the stored one.

        Raises:
            StateMismatch: there is a state, and it is of another run, damaged, without its key, or was open to
                others. It is destroyed.
            BadInputError: the folder cannot be used.
        """
        fresh = key or RunKey.from_system()
        prepare(folder)
        if not (folder / _CHECKPOINT).exists():
            _destroy_files(folder)  # the folder stays: it may be locked
            _write(folder / _KEY, lambda stream: stream.write(_key_text(fresh, binding)))
            return cls(folder, fresh, resumed=False)
        try:
            state = cls(folder, _read_key(folder / _KEY, binding=binding, expected=fresh), resumed=True)
            state.load()
        except StateMismatch:
            destroy_state(folder)
            raise
        return state

    def save(self, step: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace the checkpoint, as a whole or not at all.

        Args:
            step: steps that were made.
            arrays: what goes on from there: numbers, by name.

        Raises:
            PipelineError: it cannot be written; the former checkpoint stays.
        """
        held = {name: np.asarray(array) for name, array in arrays.items()}
        held[_STEP] = np.array(step, np.int64)
        held[_MAC] = np.frombuffer(self._mac(held), np.uint8)
        _write(self.folder / _CHECKPOINT, lambda stream: np.savez(stream, **held))

    def load(self) -> tuple[int, dict[str, NDArray[Any]]]:
        """Return steps that were made, and the arrays, as they were saved.

        Raises:
            StateMismatch: the file is damaged, or was not written under this key.
        """
        try:
            held = read_archive(self.folder / _CHECKPOINT, fix="start again")
            mac = held.pop(_MAC).tobytes()
        except (OSError, KeyError, BadInputError):
            raise mismatch("the checkpoint is damaged") from None
        if not hmac.compare_digest(mac, self._mac(held)):
            raise mismatch("the checkpoint was not written by this run")
        return int(held.pop(_STEP)), held

    def destroy(self) -> None:
        """Overwrite and remove key and checkpoint; call it when the run's result has been committed."""
        destroy_state(self.folder)

    def _mac(self, held: Mapping[str, NDArray[Any]]) -> bytes:
        digest = hmac.new(self.key.derive("checkpoint", KEY_BYTES), digestmod=hashlib.sha256)
        for name in sorted(held):
            digest.update(f"{name}\0{held[name].dtype.str}\0{held[name].shape}\0".encode())
            digest.update(held[name].tobytes())
        return digest.digest()


def mismatch(reason: str) -> StateMismatch:
    """Return the error for a run that cannot be resumed; the caller destroys the run's state."""
    return StateMismatch(
        f"the run cannot go on where it was: {reason}; its state was destroyed",
        fix="start again: the steps that were made stay charged, and the new ones are charged as well",
    )


def _key_text(key: RunKey, binding: str) -> bytes:
    held = {"version": _VERSION, "binding": binding, "seed_fixed": key.seed_fixed, "key": key.secret.hex()}
    return json.dumps(held).encode()


def _read_key(path: Path, *, binding: str, expected: RunKey) -> RunKey:
    """Return the key of a file that fits.

    Raises:
        StateMismatch: it does not.
    """
    if not path.is_file() or path.is_symlink():
        raise mismatch("its key is lost")
    found = path.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise mismatch("others could have read its key")
    try:
        held = json_value(path.read_bytes())
        key = RunKey(bytes.fromhex(held["key"]), seed_fixed=bool(held["seed_fixed"]))
        fits = held["version"] == _VERSION and hmac.compare_digest(str(held["binding"]), binding)
    except (ValueError, KeyError, TypeError):
        raise mismatch("its key is damaged") from None
    if len(key.secret) != KEY_BYTES:
        raise mismatch("its key is damaged")
    if not fits:
        raise mismatch("plan, model, data, software or machine are not those it was started with")
    if key.seed_fixed != expected.seed_fixed or (key.seed_fixed and key.secret != expected.secret):
        raise mismatch("it was started with another seed")
    return key


def prepare(folder: Path) -> None:
    """Make the folder of a run's state, with rights 0700.

    Raises:
        BadInputError: it cannot be made, or others may enter it.
    """
    try:
        make_folders(folder)
        if not any(folder.iterdir()):
            folder.chmod(0o700)
        found = folder.stat()
    except OSError as error:
        raise BadInputError(f"{folder}: cannot be used for the run's state ({error.strerror})") from None
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise BadInputError(f"{folder}: others may enter this folder, which is to hold a secret", fix="chmod 700")


def _write(path: Path, fill: Callable[[BinaryIO], Any]) -> None:
    """Write a file through one beside it, with rights 0600, and wait until the disk has it."""
    partial = path.with_name(path.name + _PARTIAL)
    with _one_line(path):
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            fill(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file with rights 0600, and wait until the disk has it.

    Raises:
        PipelineError: it cannot be written.
    """
    with _one_line(path):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as stream:
            stream.write(f"{line}\n")
            stream.flush()
            os.fsync(stream.fileno())
        _sync_folder(path.parent)


def overwrite(path: Path, content: bytes) -> None:
    """Write over a file's first bytes, with rights 0600, and do not wait for the disk.

    Raises:
        PipelineError: it cannot be written.
    """
    with _one_line(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(handle, content, 0)
        finally:
            os.close(handle)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PipelineError(
            f"{path}: cannot be written ({error.strerror})", fix="free space, and start again"
        ) from None


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
