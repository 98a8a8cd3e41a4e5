"""Linux namespaces of a process's own, entered without rights (user_namespaces(7)). Standard library alone.

Two programs use them: the parties of encrypted inference, which see folders as empty, and the process that builds a
user's model, which sees only what a list names.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from privacy_pipeline.errors import PipelineError

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 1 << 14, 1 << 18
_NOBODY = 65534  # in the namespace; a user who is not root there has no rights over it once a program is executed
FIX = (
    "allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone), or use a host that does"
)


def enter(*kinds: int) -> None:
    """Move this process, which must have one thread, into new namespaces; mounts it makes are seen nowhere else.

    Args:
        kinds: namespaces beside those of users and mounts, which are always new.

    Raises:
        PipelineError: the kernel does not allow it.
    """
    user, group = os.geteuid(), os.getegid()
    flags = NEWUSER | NEWNS
    for kind in kinds:
        flags |= kind
    call("unshare", flags)
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user or _NOBODY} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group or _NOBODY} {group} 1")
    except OSError as error:
        raise PipelineError(f"no namespace of its own to be had: {error}", fix=FIX) from None
    mount(b"none", Path("/"), None, MS_REC | MS_PRIVATE)


def mount(source: bytes, target: Path, kind: bytes | None, flags: int, options: bytes | None = None) -> None:
    """Mount something, or change how it is mounted (mount(2)).

    Raises:
        PipelineError: the kernel does not allow it.
    """
    call("mount", source, os.fsencode(target), kind, flags, options)


def call(name: str, *arguments: bytes | int | None) -> None:
    """Call a function of the C library that answers 0.

    Raises:
        PipelineError: it answers anything else.
    """
    given = [ctypes.c_ulong(one) if isinstance(one, int) else one for one in arguments]
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*given) != 0:
        why = os.strerror(ctypes.get_errno())
        raise PipelineError(f"no namespace of its own to be had: {name}: {why}", fix=FIX)
