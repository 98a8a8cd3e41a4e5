"""Processes of one test, told from others by a mark in their environment."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from pathlib import Path

_VARIABLE = "PRIVACY_PIPELINE_TEST_MARK"


def marked() -> tuple[str, dict[str, str]]:
    """A mark, and an environment that carries it to all that a process starts."""
    mark = uuid.uuid4().hex
    return mark, {**os.environ, _VARIABLE: mark}


def running(mark: str) -> dict[int, str]:
    """Command lines of the processes with the mark that have not ended."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                if f"{_VARIABLE}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return {pid: line for pid, line in found.items() if line}  # a zombie has none


def left_after(mark: str, *, seconds: float = 10.0) -> dict[int, str]:
    """Those that still run after some time, or nothing as soon as none does."""
    limit = time.monotonic() + seconds
    while (found := running(mark)) and time.monotonic() < limit:
        time.sleep(0.05)
    return found
