"""Paths as TensorFlow, Beam and TFX have to be given them: without a character that they take for a pattern.

These libraries read `*`, `?`, `[` and the backslash of any path as a pattern, also in the names of folders that they
were given, and two of them have no escape. A path with such a character is therefore given to them through a symbolic
link in the user's data folder, whose own name is plain. This is the one home of the rule.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.file_rights import make_folders

PATTERN = re.compile(r"[*?\[\\]")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")


def literal(path: Path) -> Path:
    """Return an absolute path to the same place that no library takes for a pattern.

    The path itself, where no part of it has a character of patterns; else one through a link to the last part that has
    one. The same path gives the same link.

    Args:
        path: a path; what it names need not exist yet.

    Raises:
        BadInputError: the path needs a link, and there is no folder for one.
    """
    parts = path.absolute().parts
    last = max((number for number, part in enumerate(parts) if PATTERN.search(part)), default=None)
    if last is None:
        return path.absolute()
    target = Path(*parts[: last + 1])
    # Libraries read from the end of a file's name how it is compressed.
    suffix = target.suffix if _SUFFIX.fullmatch(target.suffix) else ""
    name = hashlib.sha256(os.fsencode(target)).hexdigest()[:24] + suffix
    return _link(name, target).joinpath(*parts[last + 1 :])


def require_utf8(path: Path) -> None:
    """Refuse a path that no file of a run could hold, nor TensorFlow open.

    Raises:
        BadInputError: a name in it is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = str(path).encode(errors="backslashreplace").decode()
        raise BadInputError(f"{shown}: a name in this path is not UTF-8", fix="rename the folder or the file") from None


def as_named(path: Path) -> Path:
    """Return the path that `literal` was given, for a path that it gave; another path as it is."""
    for folder in _folders():
        if path.is_relative_to(folder) and path != folder:
            name, *rest = path.relative_to(folder).parts
            with contextlib.suppress(OSError):  # no link of that name: nothing that `literal` gave
                return (folder / name).readlink().joinpath(*rest)
    return path


def _folders() -> Iterator[Path]:
    """Yield where links may lie: the user's data folder, or one below /tmp for users whose own has such characters."""
    given = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    for folder in (Path(given, "privacy_pipeline"), Path("/tmp", f"privacy_pipeline-{os.getuid()}")):
        if folder.is_absolute() and not PATTERN.search(str(folder)):
            yield folder / "links"


def _link(name: str, target: Path) -> Path:
    for folder in _folders():
        with contextlib.suppress(OSError):
            make_folders(folder)
            if _is_ours(folder) and _is_ours(folder.parent):
                _point(folder / name, target)
                return folder / name
    raise BadInputError(
        f"{target}: TensorFlow and Beam take *, ?, [ and \\ in a path for a pattern, and no link to it can be made in "
        f"{' or '.join(map(str, _folders()))}",
        fix="give the folder another name, or make one of these folders yours to write",
    )


def _is_ours(folder: Path) -> bool:
    """Return whether nobody else can put another link in place of ours."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _point(link: Path, target: Path) -> None:
    """Make the link in a single step: another process may be making the same."""
    with contextlib.suppress(OSError):
        if link.readlink() == target:
            return
    part = link.with_name(f".{secrets.token_hex(8)}")
    part.symlink_to(target)
    os.replace(part, link)
