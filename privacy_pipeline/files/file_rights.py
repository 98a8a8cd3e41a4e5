"""Who may read what the program makes, and change what it relies on."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.text.typed import quoted

_OTHERS = 0o077
_OTHERS_WRITE = 0o022
_MOST_LINKS = 40  # as the kernel follows


def real(path: Path) -> Path:
    """Return the absolute path behind all links. A circle of links raises nothing here; opening the path fails."""
    return Path(os.path.realpath(path))


def keep_to_this_user() -> None:
    """Give all that this process and its children make to this user alone, whatever the umask was."""
    os.umask(_OTHERS)


@contextmanager
def for_this_user() -> Iterator[None]:
    """Give all that is made in a `with` block to this user alone; the umask of a program of a user's own comes back.

    The umask is that of the whole process, its other threads included.
    """
    before = os.umask(_OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def make_folders(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone; what is there stays as it is.

    `Path.mkdir` leaves the rights of the folders above to the umask, which in a program of a user's own may be any.

    Raises:
        OSError: one cannot be made.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing or [folder]):
        one.mkdir(mode=0o700, exist_ok=True)


def private_folder(folder: Path) -> None:
    """Make a folder that this user alone may enter, and take the rights of others from one that is there.

    A folder such as `/tmp`, which is made for all users, or one of another user stays as it is.

    Raises:
        OSError: it cannot be made or changed.
    """
    make_folders(folder)
    state = folder.stat()
    mode = stat.S_IMODE(state.st_mode)
    if mode & _OTHERS and not mode & stat.S_ISVTX and state.st_uid == os.geteuid():
        folder.chmod(mode & ~_OTHERS)


def private_file(file: Path) -> None:
    """Make an empty file that this user alone may read, and take the rights of others from one that is there.

    Raises:
        OSError: it cannot be made or changed, or is a device or a pipe.
    """
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(file))
        mode = stat.S_IMODE(state.st_mode)
        if mode & _OTHERS:
            os.fchmod(handle, mode & ~_OTHERS)
    finally:
        os.close(handle)


def refuse_if_others_may_change(file: Path, *, own: bool = False) -> None:
    """Refuse a file that somebody else may change or replace: by its own rights, or by those of a folder above it.

    Where a name is a link, what it points to counts too. A folder such as `/tmp`, where nobody can replace what another
    user made, does not make a file changeable. Higher folders may be open to the group that this user alone is in,
    as many systems set them up.

    Args:
        file: the file; one that is not there is passed over.
        own: it and its folder also have to belong to this user or to root, and its folder to nobody else at all; in a
            folder such as `/tmp`, what leads to it has to be made by this user or root.

    Raises:
        BadInputError: they may.
    """
    for path in dict.fromkeys((file, file.parent, real(file), real(file).parent)):
        try:
            state = path.stat()
        except OSError:
            continue
        mode = stat.S_IMODE(state.st_mode)
        is_shared_place = stat.S_ISDIR(state.st_mode) and mode & stat.S_ISVTX and not own
        if mode & _OTHERS_WRITE and not is_shared_place:
            _refuse_changeable(path, mode)
        if own:
            _refuse_foreign(path, state.st_uid)
    _refuse_way(file, own=own, group=True)


def refuse_if_others_may_replace(folder: Path) -> None:
    """Refuse a folder that another user made, or may put another one in place of.

    Folders above it that are open to a group pass: its members share a project.

    Raises:
        BadInputError: see above.
    """
    with suppress(OSError):  # missing, or not accessible: the caller's own use of it fails with the reason
        _refuse_foreign(folder, folder.stat().st_uid)
    _refuse_way(folder, own=True, group=False)


def _refuse_foreign(path: Path, owner: int) -> None:
    if owner not in (os.geteuid(), 0):
        raise BadInputError(
            f"{path}: belongs to user {owner}, and a guarantee of yours would rest on it",
            fix=f"work as that user, or see what is in it and: chown {os.geteuid()} {quoted(path)}",
        )


def _refuse_changeable(path: Path, mode: int) -> None:
    raise BadInputError(
        f"{path}: other users may change it (mode {mode:04o}), and a guarantee rests on it", fix=_narrower(path, mode)
    )


def _refuse_way(path: Path, *, own: bool, group: bool) -> None:
    """Refuse a path on whose way others may put something else."""
    for folder, entry in _way(path):
        above = folder.stat()
        mode = stat.S_IMODE(above.st_mode)
        if mode & stat.S_ISVTX:
            if own and mode & _OTHERS_WRITE:  # the owner of an entry, or of the folder, can replace it
                _refuse_foreign(folder, above.st_uid)
                with suppress(FileNotFoundError):
                    _refuse_foreign(entry, entry.lstat().st_uid)
        elif mode & stat.S_IWOTH or (group and mode & stat.S_IWGRP and not _is_of_this_user_alone(above.st_gid)):
            _refuse_changeable(folder, mode)


def _way(path: Path) -> Iterator[tuple[Path, Path]]:
    """Yield what the system looks up on its way to a path: each folder, without links, and the entry in it that comes
    next.

    It ends where nothing is there yet, or where links have no end.
    """
    left, here, links = list(reversed(path.absolute().parts[1:])), Path("/"), 0
    while left and links <= _MOST_LINKS:
        name = left.pop()
        if name == "..":
            here = here.parent
            continue
        entry = here / name
        yield here, entry
        if entry.is_symlink():
            links += 1
            target = entry.readlink()
            here = Path("/") if target.is_absolute() else here
            left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        elif entry.is_dir():
            here = entry
        else:
            return


def _is_of_this_user_alone(group: int) -> bool:
    """Whether it is the user's private group, as many systems make one: of the user's name, without another member."""
    try:
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return user.pw_gid == group and found.gr_name == user.pw_name and set(found.gr_mem) <= {user.pw_name}


def refuse_if_others_may_read(file: Path) -> None:
    """Refuse a file with a secret that somebody else may read or change; see `refuse_if_others_may_change`.

    Args:
        file: the file; one that is not there is passed over.

    Raises:
        BadInputError: they may.
    """
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except OSError:
        return
    if mode & _OTHERS & ~_OTHERS_WRITE:
        raise BadInputError(
            f"{file}: other users may read it (mode {mode:04o}), and it is secret",
            fix=f"chmod 600 {quoted(file)}; if others may have read it, make a new one",
        )
    refuse_if_others_may_change(file)


def refuse_folder_of_others(folder: Path) -> None:
    """Refuse a folder in which somebody else may put files in the place of ours; `/tmp` is not such a folder.

    Raises:
        OSError: it cannot be looked at.
        BadInputError: they may.
    """
    state = folder.stat()
    mode = stat.S_IMODE(state.st_mode)
    if mode & _OTHERS_WRITE and not mode & stat.S_ISVTX:
        raise BadInputError(
            f"{folder}: other users may change what is in it (mode {mode:04o}), and it is run as code",
            fix="name a folder of your own, or have its owner take the right to write from others",
        )
    if os.geteuid() and state.st_uid not in (os.geteuid(), 0):
        raise BadInputError(
            f"{folder}: belongs to user {state.st_uid}, and what is in it is run as code",
            fix="name a folder of your own",
        )


def _narrower(path: Path, mode: int) -> str:
    if mode & stat.S_ISVTX and path.is_dir():
        return "move it to a folder of its own that nobody else may write"
    return f"see that nobody has changed it, then: chmod go-w {quoted(path)}"
