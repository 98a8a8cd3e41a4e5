"""Program: runs a command in a network namespace of its own, in which there is a loopback and nothing else.

    python -m privacy_pipeline.encrypted.sandbox.inside PARENT CONTROL PORTS HIDDEN COMMAND...

Nothing gets in or out but through sockets that are made in here and handed to the parent over the Unix socket CONTROL
(a file descriptor): first one listener for each of the comma-separated PORTS of 127.0.0.1, then, for each byte that
comes from there, a socket that the parent may connect to a port in here. The colon-separated folders HIDDEN look empty
to the command, which starts in the current folder (also if that is in one of them) and ends with this process. It
needs no rights (user_namespaces(7)); where the kernel does not allow it, the first message on CONTROL is the reason,
and nothing is run.
"""

from __future__ import annotations

import fcntl
import functools
import os
import selectors
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from privacy_pipeline.errors import PipelineError
from privacy_pipeline.processes import namespaces
from privacy_pipeline.processes.die_with_parent import die_with_parent

READY = b"ready"
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_HIDDEN = namespaces.MS_NOSUID | namespaces.MS_NODEV


def require_loopback_only() -> None:
    """Refuse to go on where there is any network but the loopback.

    Raises:
        PipelineError: names the interfaces.
    """
    names = [name for _, name in socket.if_nameindex()]
    if names != ["lo"]:
        raise PipelineError(
            f"the network namespace is not closed: it has {', '.join(names) or 'no loopback'}", fix="start the party"
        )


def enter_sandbox(hidden: Sequence[Path]) -> None:
    """Move this process, which must have one thread, into new user, network and mount namespaces.

    Raises:
        PipelineError: the kernel does not allow it.
    """
    namespaces.enter(namespaces.NEWNET)
    try:
        with socket.socket() as any_socket:
            asked = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0))
            flags = struct.unpack("16sh14x", asked)[1]
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
    except OSError as error:
        raise PipelineError(f"no network namespace to be had: {error}", fix=namespaces.FIX) from None
    for folder in hidden:
        namespaces.mount(b"none", folder, b"tmpfs", _HIDDEN, b"size=64k,mode=700")
    require_loopback_only()


def _listener(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=128)


def _attend(control: socket.socket, child: subprocess.Popen[bytes]) -> int:
    """Hand out sockets until the command or the parent ends; return the command's exit code."""
    ended = os.pidfd_open(child.pid)
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(ended, selectors.EVENT_READ)
        while True:
            if any(key.fileobj == ended for key, _ in selector.select()):
                return child.wait()
            if not control.recv(1):
                child.kill()
                return child.wait()
            with socket.socket() as fresh:
                socket.send_fds(control, [READY], [fresh.fileno()])


def main(arguments: Sequence[str]) -> int:
    """Run the program."""
    parent, descriptor, ports, hidden, *command = arguments
    control = socket.socket(fileno=int(descriptor))
    try:
        enter_sandbox([Path(folder) for folder in hidden.split(":") if folder])
    except PipelineError as error:
        control.send(error.message.encode())
        return 1
    # Only now: a change of credentials makes the kernel forget it.
    die_with_parent(int(parent))
    listeners = [_listener(int(port)) for port in ports.split(",") if port]
    socket.send_fds(control, [READY], [listener.fileno() for listener in listeners])
    for listener in listeners:
        listener.close()
    child = subprocess.Popen(command, preexec_fn=functools.partial(die_with_parent, os.getpid()))
    return _attend(control, child)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
