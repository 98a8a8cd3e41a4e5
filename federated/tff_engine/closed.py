"""Program: runs TFF's worker where nobody but the user that started it can reach it.

    python -m federated.tff_engine.closed PARENT SOCKET PORT COMMAND...

TFF's worker listens on every interface, asks nobody who he is, and runs whatever graph it is sent, which may read and
write any file of its user. So it gets a network namespace of its own, in which there is a loopback and nothing else
(user_namespaces(7)); its bytes are carried by the Unix socket SOCKET, which lies in a folder of the user's alone. Where
the kernel gives no such namespace, nothing is run. It ends with the parent, and as the command does.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from privacy_pipeline.encrypted.sandbox.inside import enter_sandbox
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.processes.die_with_parent import die_with_parent

REFUSED = 77  # its status where no namespace can be had
_CHUNK = 1 << 18
_START_SECONDS = 60.0


def main(arguments: Sequence[str]) -> int:
    """Run the program."""
    parent, path, port, *command = arguments
    try:
        enter_sandbox([])
    except PipelineError as error:
        sys.stderr.write(f"{error.message}\n")
        return REFUSED
    # Only now: a change of credentials makes the kernel forget it.
    die_with_parent(int(parent))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        child = subprocess.Popen(command, preexec_fn=functools.partial(die_with_parent, os.getpid()))
        threading.Thread(target=_serve, args=(listener, int(port)), daemon=True).start()
        code = child.wait()
        if code < 0:  # end as it did
            os.kill(os.getpid(), -code)
        return code


def _serve(listener: socket.socket, port: int) -> None:
    while True:
        accepted, _ = listener.accept()
        threading.Thread(target=_carry, args=(accepted, port), daemon=True).start()


def _carry(client: socket.socket, port: int) -> None:
    with client, contextlib.suppress(OSError), _connected(port) as worker:
        back = threading.Thread(target=_pass_on, args=(worker, client), daemon=True)
        back.start()
        _pass_on(client, worker)
        back.join()


def _connected(port: int) -> socket.socket:
    """Return a connection to the worker, which may be about to listen."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Send on what comes until one side ends; then neither gets more."""
    with contextlib.suppress(OSError):
        while content := source.recv(_CHUNK):
            sink.sendall(content)
    for side in (source, sink):
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
