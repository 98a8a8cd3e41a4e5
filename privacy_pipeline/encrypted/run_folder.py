"""Folders of running parties and clients: in memory, for their user alone, and gone when they end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from privacy_pipeline.errors import PipelineError
from privacy_pipeline.files.atomic import alone_in

VARIABLE = "PRIVACY_PIPELINE_STORES"
_LOCK = ".lock"


def base_folder() -> Path:
    """Return the folder of this user's parties and clients on this machine, which nobody else can open.

    It is in $PRIVACY_PIPELINE_STORES, else in memory where that can be had, else with other temporary files.

    Raises:
        PipelineError: somebody else made it.
    """
    memory = Path("/dev/shm")
    usual = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    root = Path(os.environ.get(VARIABLE) or usual)
    found = root / f"privacy-pipeline-{os.geteuid()}"
    found.mkdir(mode=0o700, exist_ok=True)
    state = found.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o077:
        raise PipelineError(
            f"{found}: is not a folder that this user alone can open",
            fix=f"remove it; if it is another user's: export {VARIABLE}=FOLDER (that this user alone can write)",
        )
    return found


@contextlib.contextmanager
def run_folder(name: str) -> Iterator[Path]:
    """Make a folder for one process, removed at the end; remove first what killed processes left behind."""
    base = base_folder()
    with alone_in(base):  # so that a folder without its lock is one that was left
        for old in base.iterdir():
            _remove_unless_held(old)
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=base))
        lock = (folder / _LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    with lock:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_unless_held(old: Path) -> None:
    """Remove a folder that no living process holds, also one of which a killed process had removed a part."""
    try:
        with (old / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        pass
    except OSError:  # in use
        return
    shutil.rmtree(old, ignore_errors=True)
