"""What a command does to files below some folders, as inotify(7) tells it: the moments at which it is killed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import struct
import time
from collections.abc import Iterator
from pathlib import Path

_CREATE, _MODIFY, _CLOSED, _MOVED, _DELETE = 0x100, 0x2, 0x8, 0x80, 0x200
_NAMES = {_CREATE: "create", _MODIFY: "modify", _CLOSED: "close", _MOVED: "rename", _DELETE: "delete"}
_IS_FOLDER, _ONLY_FOLDERS = 0x40000000, 0x01000000
_HEAD = struct.Struct("iIII")
_RANDOM = re.compile(
    r"(?:(?<=tmp)|(?<=temp))[a-z0-9_]{8}|(?<=file)[a-z0-9_]{8}(?=\.py)|(?<=[._/-])[a-z0-9_]{8}(?=$|[/.])|[0-9a-f]{6,}|\d+"
)


class Watch:
    """The folders and all that appears below them, from when it is made until it is closed."""

    def __init__(self, *folders: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._handle = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._handle < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._watched: dict[int, Path] = {}
        self._roots = {folder: folder.name for folder in folders}
        self._found: list[str] = []
        for folder in folders:
            self._add(folder, told=False)

    def close(self) -> None:
        """Ends it."""
        os.close(self._handle)

    def kinds(self, *, until: float) -> Iterator[str]:
        """What happens, one after the other, as "create workspace/runs/#": names that differ from run to run are #.

        Ends at the time `until` (`time.monotonic`), or with a time without any event, for the caller to look around.
        """
        while True:
            yield from self._taken()
            left = min(0.2, until - time.monotonic())
            if left <= 0 or not select.select([self._handle], [], [], left)[0]:
                return
            self._read()

    def _taken(self) -> Iterator[str]:
        found, self._found = self._found, []
        yield from found

    def _read(self) -> None:
        content, at = os.read(self._handle, 1 << 20), 0
        while at < len(content):
            watched, mask, _, length = _HEAD.unpack_from(content, at)
            name = content[at + _HEAD.size : at + _HEAD.size + length].rstrip(b"\0").decode(errors="replace")
            at += _HEAD.size + length
            folder = self._watched.get(watched)
            if folder is None or not name:
                continue
            self._tell(mask, folder / name)
            if mask & _IS_FOLDER and mask & (_CREATE | _MOVED):
                self._add(folder / name, told=True)

    def _add(self, folder: Path, *, told: bool) -> None:
        """Watches a folder; what came into it before that is told of as created."""
        mask = sum(_NAMES) | _ONLY_FOLDERS
        number = self._libc.inotify_add_watch(self._handle, os.fsencode(folder), mask)
        if number < 0:
            return  # it is gone again
        self._watched[number] = folder
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                if told:
                    self._tell(_CREATE, path)
                if path.is_dir() and not path.is_symlink():
                    self._add(path, told=told)

    def _tell(self, mask: int, path: Path) -> None:
        what = next((name for bit, name in _NAMES.items() if mask & bit), None)
        root = next((root for root in self._roots if path.is_relative_to(root)), None)
        if what is not None and root is not None:
            self._found.append(f"{what} {_RANDOM.sub('#', str(path.relative_to(root)))}")
