"""Carries bytes both ways between the two ends of a tunnel, each as soon as it comes.

The event loop calls as soon as a socket has something; it is sent on in the same call. Where the other side does not
take all of it, nothing more is received until it has: a connection holds one chunk each way at most, and each call does
a bounded piece of work, whatever its peers do.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Callable
from dataclasses import dataclass

from privacy_pipeline.encrypted.transport.endpoints import CHUNK, Plain
from privacy_pipeline.encrypted.transport.sockets import readable, writable

_STALLED_SECONDS = 20.0  # without a byte taken by a peer, when its connection is to end
_LAST_WORDS_SECONDS = 20.0
_PARTING_SECONDS = 5.0

Count = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Way:
    """One direction.

    Attributes:
        source: gives.
        sink: takes.
        count: gets the number of bytes of each piece.
    """

    source: Plain
    sink: Plain
    count: Count

    def move(self) -> None:
        """Send on what the source has now."""
        content = self.source.read()
        if content:
            self.count(len(content))
            self.sink.write(content)

    @property
    def over(self) -> bool:
        """Whether nothing more can pass."""
        return self.source.ended or self.sink.broken


async def carry(one: Plain, other: Plain, *, to_other: Count, to_one: Count) -> None:
    """Carry bytes both ways until one side ends; then close both, once they have what was read for them.

    Args:
        one: a side.
        other: the other one.
        to_other: gets the sizes of what passes from one to the other.
        to_one: gets those of the way back.
    """
    there = Way(source=one, sink=other, count=to_other)
    back = Way(source=other, sink=one, count=to_one)
    try:
        await _until_one_ends(there, back)
        for way in (there, back):
            # A side that takes nothing any more may have sent the reason before it closed.
            if way.source.broken:
                with contextlib.suppress(OSError, asyncio.TimeoutError):
                    await asyncio.wait_for(_rest(way), _LAST_WORDS_SECONDS)
        await asyncio.gather(part(one), part(other))
    finally:
        one.socket.close()
        other.socket.close()


async def part(side: Plain) -> None:
    """Send what is unsent, then the end, wait for the peer's end and close.

    To close a socket while something comes in would take back what is still on its way to the peer (RFC 1122,
    4.2.2.13). A peer that does not listen, or goes on, is left alone after some time.
    """
    try:
        side.finish()
        await _taken(side)
        if side.broken:
            return
        side.socket.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(_discarded(side.socket), _PARTING_SECONDS)
    except (OSError, asyncio.TimeoutError):
        return  # it is gone
    finally:
        side.socket.close()


async def _until_one_ends(there: Way, back: Way) -> None:
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def pull(way: Way) -> None:
        way.move()
        settle(way)

    def settle(way: Way) -> None:
        if way.over:
            if not over.done():
                over.set_result(None)
        elif way.sink.unsent:
            loop.remove_reader(way.source.socket)
            loop.add_writer(way.sink.socket, push, way)

    def push(way: Way) -> None:
        way.sink.flush()
        if not way.sink.unsent:
            loop.remove_writer(way.sink.socket)
            loop.add_reader(way.source.socket, pull, way)
        settle(way)

    try:
        for way in (there, back):
            loop.add_reader(way.source.socket, pull, way)
            # The event loop does not report bytes that came right after the handshake; an answer may be partly unsent.
            if way.sink.unsent:
                settle(way)
            else:
                pull(way)
        await over
    finally:
        for side in (there.source, back.source):
            loop.remove_reader(side.socket)
            loop.remove_writer(side.socket)


async def _rest(way: Way) -> None:
    """Pass on what the source still has, until its end."""
    await _taken(way.sink)
    while not way.over:
        way.move()
        await _taken(way.sink)
        if not way.over:
            await readable(way.source.socket)


async def _taken(side: Plain) -> None:
    while side.unsent:
        await asyncio.wait_for(writable(side.socket), _STALLED_SECONDS)
        side.flush()


async def _discarded(sock: socket.socket) -> None:
    receive = functools.partial(asyncio.get_running_loop().sock_recv, sock, CHUNK)
    while await receive():
        pass
