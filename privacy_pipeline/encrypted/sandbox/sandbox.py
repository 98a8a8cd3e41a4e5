"""A command without a network, and the sockets that lead to it: the outer side of `inside`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from privacy_pipeline.encrypted.sandbox.inside import READY
from privacy_pipeline.encrypted.transport.sockets import readable
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.files.file_rights import real
from privacy_pipeline.processes.namespaces import FIX
from privacy_pipeline.processes.programs import command_of

_START_SECONDS, _END_SECONDS = 60.0, 10.0
_LONGEST = 1000  # bytes of a message


class Sandbox:
    """A running command in a network namespace of its own.

    Attributes:
        process: ends when the command does, with its exit code; when it is killed, the command is.
        listeners: by port of 127.0.0.1 in there: listening, to be accepted from out here.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, control: socket.socket, listeners: Mapping[int, socket.socket]
    ) -> None:
        self.process, self.listeners = process, listeners
        self._control = control
        self._one_at_a_time = asyncio.Lock()

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        ports: Sequence[int],
        hidden: Sequence[Path],
        folder: Path,
        environment: Mapping[str, str],
        **streams: Any,
    ) -> Sandbox:
        """Start the command; the namespace is closed before it runs.

        Args:
            command: program and arguments.
            ports: of 127.0.0.1 in there that are answered out here.
            hidden: folders that the command must not see.
            folder: in which it starts.
            environment: its environment variables.
            streams: stdin, stdout and stderr as for `asyncio.create_subprocess_exec`.

        Raises:
            PipelineError: no namespace can be had; nothing was run.
        """
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listed = ",".join(map(str, ports)), ":".join(str(real(path)) for path in hidden)
        program = [*command_of("privacy_pipeline.encrypted.sandbox.inside"), str(os.getpid()), str(theirs.fileno())]
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *program, *listed, *command, pass_fds=[theirs.fileno()], cwd=folder, env=dict(environment), **streams
            )
        try:
            content, sockets = await asyncio.wait_for(_received(control, len(ports)), _START_SECONDS)
            if content != READY:
                raise PipelineError(content.decode(errors="replace") or "no network namespace to be had", fix=FIX)
        except BaseException:
            control.close()
            await _ended(process)
            raise
        return cls(process, control, dict(zip(ports, sockets, strict=True)))

    async def connect(self, port: int) -> socket.socket:
        """Return a connection to a port of 127.0.0.1 in there.

        Raises:
            OSError: nobody listens, or the command ended.
        """
        async with self._one_at_a_time:
            self._control.send(b".")
            content, sockets = await _received(self._control, 1)
        if content != READY:
            raise ConnectionError("the command ended")
        sockets[0].setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sockets[0], ("127.0.0.1", port))
        except BaseException:
            sockets[0].close()
            raise
        return sockets[0]

    async def close(self) -> None:
        """End the command."""
        self._control.close()
        for listener in self.listeners.values():
            listener.close()
        await _ended(self.process)


async def _ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGKILL)
    await asyncio.wait_for(process.wait(), _END_SECONDS)


async def _received(control: socket.socket, count: int) -> tuple[bytes, list[socket.socket]]:
    """Return the next message and the sockets that came with it; no bytes when the other side is gone."""
    await readable(control)
    try:
        content, descriptors, _, _ = socket.recv_fds(control, _LONGEST, count)
    except ConnectionResetError:
        return b"", []
    return content, [socket.socket(fileno=descriptor) for descriptor in descriptors]
