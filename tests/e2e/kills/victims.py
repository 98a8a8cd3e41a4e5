"""The processes of one command, and which of them a kill hits."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

from tests.encrypted.processes import running

WHO = ("command", "all", "one below")  # the command itself, its whole tree, or one of the others


def tree(mark: str, root: int) -> dict[int, str]:
    """Command lines of the command's processes: those that carry its mark, and those below its first one."""
    found = running(mark)
    parents = _parents()
    for pid in parents:
        above = pid
        while above in parents and above != root:
            above = parents[above]
        if above == root and pid not in found and (line := _line(pid)):
            found[pid] = line
    return found


def kill(who: str, *, mark: str, root: int, chance: random.Random) -> str:
    """Kills by SIGKILL what was drawn.

    Returns:
        The command line of what was hit; "" where it had ended.
    """
    if who == "command":
        return _killed(root)
    found = tree(mark, root)
    if who == "all":
        return "; ".join(filter(None, [_killed(pid) for pid in chance.sample(sorted(found), len(found))]))
    below = sorted(found.keys() - {root})
    return _killed(chance.choice(below)) if below else _killed(root)


def orphans(mark: str, known: dict[int, str], *, seconds: float = 10.0) -> dict[int, str]:
    """What lives on after some time, or nothing as soon as two looks found nothing.

    Args:
        mark: of the command.
        known: processes that belonged to it and may carry no mark.
        seconds: how long to wait.
    """
    limit, empty = time.monotonic() + seconds, 0
    while True:
        found = running(mark) | {pid: line for pid, line in known.items() if _line(pid) == line}
        empty = 0 if found else empty + 1
        if empty == 2 or (found and time.monotonic() > limit):
            return found
        time.sleep(0.05)


def _killed(pid: int) -> str:
    line = _line(pid)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return ""
    return line


def _line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def _parents() -> dict[int, int]:
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                found[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    return found
