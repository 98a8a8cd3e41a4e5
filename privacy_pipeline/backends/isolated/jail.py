"""Program: runs a command whose file system holds what a list names, and which has no network and no other process.

The list is read from standard input as JSON (`Cell`). The command gets /dev/null as standard input, the standard output
and error of this program, the environment that the cell names, and nothing else. What it may see is read-only, but for
an empty /tmp in memory. It ends with this process. Standard library alone; nothing of a user's is imported here.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import resource
import select
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from privacy_pipeline.errors import PipelineError
from privacy_pipeline.processes import namespaces
from privacy_pipeline.processes.die_with_parent import die_with_parent

SIGNALLED = 128  # exit code, less the number of the signal that ended the command
REFUSED = 97  # exit code where the cell could not be made; the reason is on standard output
_BUILT_BY = (namespaces.NEWNET, namespaces.NEWPID, namespaces.NEWIPC, namespaces.NEWUTS)
_MNT_DETACH, _PR_SET_NO_NEW_PRIVS = 2, 38
_SYS_PIVOT_ROOT = 155  # x86_64, the one machine that the environment is locked for
_DEVICES = ("null", "zero", "full", "random", "urandom")
_NOT_OPEN = "the cell is not closed"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a command may see, and what it may use.

    Attributes:
        shown: absolute paths of files and folders, shown as they are, read-only.
        emptied: folders among them that look empty, to be filled by other paths of `shown`.
        files: contents, in base64, by absolute path.
        folder: in which the command starts.
        command: program and arguments.
        environment: its environment variables.
        memory: bytes that a process of it may allocate; what lies in its /tmp is counted for itself.
        seconds: of the processor, that a process of it may use.
    """

    shown: tuple[str, ...]
    emptied: tuple[str, ...]
    files: dict[str, str]
    folder: str
    command: tuple[str, ...]
    environment: dict[str, str]
    memory: int
    seconds: int


def main() -> int:
    """Run the program."""
    parent = int(sys.argv[1])
    cell = Cell(**json.load(sys.stdin.buffer))
    try:
        namespaces.enter(*_BUILT_BY)
    except PipelineError as error:
        return _refuse(error)
    die_with_parent(parent)  # only now: a change of credentials makes the kernel forget it
    ours, theirs = os.pipe()
    inner = os.fork()
    if inner == 0:
        os.close(ours)
        os._exit(_inside(cell, theirs))
    os.close(theirs)
    code = os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1])
    return code if code >= 0 else SIGNALLED - code


def _inside(cell: Cell, outer: int) -> int:
    """Run process 1 of the new namespace: build the root, move there and become the command."""
    # Its parent has no number in here; that it is gone shows in the pipe that it held.
    die_with_parent(0)
    poll = select.poll()
    poll.register(outer, select.POLLERR)
    if poll.poll(0):
        return 1
    try:
        _move_into(Path.cwd(), cell)
        os.chdir(cell.folder)
        _limit(cell)
    except (PipelineError, OSError) as error:
        return _refuse(error)
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    os.execve(cell.command[0], list(cell.command), cell.environment)


def _refuse(error: PipelineError | OSError) -> int:
    print(error.message if isinstance(error, PipelineError) else f"{_NOT_OPEN}: {error}", flush=True)  # noqa: T201
    return REFUSED


def _move_into(root: Path, cell: Cell) -> None:
    namespaces.mount(b"none", root, b"tmpfs", namespaces.MS_NOSUID | namespaces.MS_NODEV, b"mode=755")
    _mount_memory(root / "tmp", size=256)
    for path in cell.shown:
        if not any(Path(path).is_relative_to(folder) for folder in cell.emptied):
            _show(Path(path), root)
    for folder in cell.emptied:
        if _below(root, folder).is_dir():
            _mount_memory(_below(root, folder), size=1)
    for path in cell.shown:
        if any(Path(path).is_relative_to(folder) for folder in cell.emptied):
            _show(Path(path), root)
    for device in _DEVICES:
        _show(Path("/dev", device), root, read_only=False)
    # TensorFlow asks for its program's name in the one place; there is no other /proc.
    said = _make(root / "proc/self/cmdline")
    said.write_bytes(os.fsencode(cell.command[0]) + b"\0")
    said.with_name("exe").symlink_to(cell.command[0])
    for path, content in cell.files.items():
        _make(_below(root, path)).write_bytes(base64.b64decode(content))
    _below(root, cell.folder).mkdir(parents=True, exist_ok=True)
    old = root / ".old"
    old.mkdir()
    _pivot(root, old)
    os.chdir("/")
    namespaces.call("umount2", b"/.old", _MNT_DETACH)
    Path("/.old").rmdir()
    flags = namespaces.MS_REMOUNT | namespaces.MS_RDONLY | namespaces.MS_NOSUID | namespaces.MS_NODEV
    namespaces.mount(b"none", Path("/"), None, flags)
    _require_closed()


def _mount_memory(folder: Path, *, size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    flags = namespaces.MS_NOSUID | namespaces.MS_NODEV
    namespaces.mount(b"none", folder, b"tmpfs", flags, f"size={size}m,mode=700".encode())


def _show(path: Path, root: Path, *, read_only: bool = True) -> None:
    """Bind a path at the same place below the root."""
    target = _below(root, path)
    if path.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        _make(target)
    namespaces.mount(os.fsencode(path), target, None, namespaces.MS_BIND | namespaces.MS_REC)
    if read_only:
        # The kernel lets nobody drop what the mount was restricted by before.
        kept = os.statvfs(path).f_flag & ~(os.ST_RDONLY | os.ST_RELATIME)
        flags = namespaces.MS_REMOUNT | namespaces.MS_BIND | namespaces.MS_RDONLY | namespaces.MS_NOSUID | kept
        namespaces.mount(b"none", target, None, flags)


def _below(root: Path, path: Path | str) -> Path:
    return root / Path(path).relative_to("/")


def _make(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch()
    return target


def _pivot(root: Path, old: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_PIVOT_ROOT, os.fsencode(root), os.fsencode(old)) != 0:
        raise PipelineError(f"no root of its own to be had: {os.strerror(ctypes.get_errno())}", fix=namespaces.FIX)


def _require_closed() -> None:
    """Look at the cell from inside.

    Raises:
        PipelineError: something is there that no list names.
    """
    found = {path.name for path in Path("/").iterdir()} & {"sys", "run", ".old"}
    if found or {path.name for path in Path("/proc").rglob("*")} != {"self", "exe", "cmdline"}:
        raise PipelineError(f"{_NOT_OPEN}: it has {', '.join(sorted(found or {'proc'}))}")


def _limit(cell: Cell) -> None:
    for kind, most in _limits(cell):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise PipelineError(f"{_NOT_OPEN}: {os.strerror(ctypes.get_errno())}")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def _limits(cell: Cell) -> Iterable[tuple[int, int]]:
    yield resource.RLIMIT_DATA, cell.memory
    yield resource.RLIMIT_CPU, cell.seconds
    yield resource.RLIMIT_CORE, 0


if __name__ == "__main__":
    sys.exit(main())
