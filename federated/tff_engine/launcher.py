"""Becomes TFF's worker after asking the kernel to be killed with the parent. Run as a script; imports nothing slow.

    launcher.py PARENT_PID BINARY [ARGUMENT ...]

The request (prctl(2), PR_SET_PDEATHSIG) survives `execv`. It cannot be made by `preexec_fn`, which may deadlock in a
process that has TensorFlow's and gRPC's threads.
"""

import ctypes
import os
import signal
import sys

if __name__ == "__main__":
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        os._exit(1)
    os.execv(sys.argv[2], sys.argv[2:])
