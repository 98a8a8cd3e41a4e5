"""No process of a run outlives the command that started it. Imports nothing slow, so that it can come first."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Asks the kernel to kill this process when its parent ends, however that ends (prctl(2), PR_SET_PDEATHSIG).

    Args:
        parent: process id of the parent; where it ended already, this process ends now.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
