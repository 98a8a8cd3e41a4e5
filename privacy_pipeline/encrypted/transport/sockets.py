"""Plain connections, before anything is secured."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

Connect = Callable[[], Awaitable[socket.socket]]


async def connected(address: tuple[str, int]) -> socket.socket:
    """Return a connection to a host and port.

    Raises:
        OSError: nobody listens there.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(*address, type=socket.SOCK_STREAM)
    family, kind, number, _, where = found[0]
    outward = socket.socket(family, kind, number)
    outward.setblocking(False)
    try:
        await loop.sock_connect(outward, where)
    except BaseException:
        outward.close()
        raise
    return outward


async def readable(sock: socket.socket) -> None:
    """Wait until something, or the end, can be read."""
    ready = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_reader(sock, _wake, ready)
    try:
        await ready
    finally:
        asyncio.get_running_loop().remove_reader(sock)


async def writable(sock: socket.socket) -> None:
    """Wait until something can be written, or the peer is gone."""
    ready = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_writer(sock, _wake, ready)
    try:
        await ready
    finally:
        asyncio.get_running_loop().remove_writer(sock)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def unix_listener(path: Path) -> socket.socket:
    """Return a Unix socket that only its owner can connect to."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(128)
    return listener


def to_unix(path: Path) -> Connect:
    """Open connections to a Unix socket."""

    async def connect() -> socket.socket:
        local = socket.socket(socket.AF_UNIX)
        local.setblocking(False)
        with contextlib.ExitStack() as undo:
            undo.callback(local.close)
            await asyncio.get_running_loop().sock_connect(local, str(path))
            undo.pop_all()
        return local

    return connect
