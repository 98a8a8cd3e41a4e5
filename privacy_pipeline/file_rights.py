"""Who may read what the program makes, and change what it relies on."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.typed import quoted

_OTHERS = 0o077
_OTHERS_WRITE = 0o022


def keep_to_this_user() -> None:
    """Give all that this process and its children make to this user alone, whatever the umask was."""
    os.umask(_OTHERS)


def private_folder(folder: Path) -> None:
    """Make a folder that this user alone may enter, and take the rights of others from one that is there.

    A folder such as `/tmp`, which is made for all users, or one of another user stays as it is.

    Raises:
        OSError: it cannot be made or changed.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    mode = stat.S_IMODE(state.st_mode)
    if mode & _OTHERS and not mode & stat.S_ISVTX and state.st_uid == os.geteuid():
        folder.chmod(mode & ~_OTHERS)


def private_file(file: Path) -> None:
    """Make an empty file that this user alone may read, and take the rights of others from one that is there.

    Raises:
        OSError: it cannot be made or changed.
    """
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        if mode & _OTHERS:
            os.fchmod(handle, mode & ~_OTHERS)
    finally:
        os.close(handle)


def refuse_if_others_may_change(file: Path, *, own: bool = False) -> None:
    """Refuses a file that somebody else may change or replace: by its own rights, or by those of its folder.

    Where a name is a link, what it points to counts too. A folder such as `/tmp`, where nobody can replace what another
    user made, does not make a file changeable.

    Args:
        file: the file; one that is not there is passed over.
        own: it and its folder also have to belong to this user or to root, and its folder to nobody else at all.

    Raises:
        BadInputError: they may.
    """
    for path in dict.fromkeys((file, file.parent, file.resolve(), file.resolve().parent)):
        try:
            state = path.stat()
        except OSError:
            continue
        mode = stat.S_IMODE(state.st_mode)
        is_shared_place = stat.S_ISDIR(state.st_mode) and mode & stat.S_ISVTX and not own
        if mode & _OTHERS_WRITE and not is_shared_place:
            raise BadInputError(
                f"{path}: other users may change it (mode {mode:04o}), and a guarantee rests on it",
                fix=_narrower(path, mode),
            )
        if own and state.st_uid not in (os.geteuid(), 0):
            raise BadInputError(
                f"{path}: belongs to user {state.st_uid}, and a guarantee of yours would rest on it",
                fix=f"work as that user, or see what is in it and: chown {os.geteuid()} {quoted(path)}",
            )


def _narrower(path: Path, mode: int) -> str:
    if mode & stat.S_ISVTX and path.is_dir():
        return "move it to a folder of its own that nobody else may write"
    return f"see that nobody has changed it, then: chmod go-w {quoted(path)}"
