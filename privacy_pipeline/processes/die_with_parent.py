"""No process of a run outlives the command that started it. Imports nothing slow, so that it can come first.

    die_with_parent.py PARENT_PID PROGRAM [ARGUMENT ...]

As a script it becomes a program that asks for nothing itself (`programs.ending_with_us`): the request survives exec. It
cannot be made by `preexec_fn`, which may deadlock in a process that has TensorFlow's and gRPC's threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends, however that ends (prctl(2), PR_SET_PDEATHSIG).

    Args:
        parent: process id of the parent; where it ended already, this process ends now.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
