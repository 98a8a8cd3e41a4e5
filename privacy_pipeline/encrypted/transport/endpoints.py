"""What a tunnel joins: a plain socket at one end, TLS at the other. Neither ever waits, but for the handshake.

TLS is a transformation between two buffers in memory here, so that the sockets are the same at both ends: one call
receives, one call sends, and what a socket does not take stays with its side.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Mapping
from typing import Any, cast

CHUNK = 1 << 17  # bytes received at once: more only delays other connections
_RECORD = 1 << 14  # bytes of content; with all that belongs to it 2^14 + 261 (RFC 8446, 5.2)
_NOTHING = memoryview(b"")


class Plain:
    """A socket as it is.

    Args:
        sock: connected; non-blocking from now on.

    Attributes:
        socket: this one.
        unsent: ciphertext or plaintext that it has not taken yet.
        ended: whether nothing more comes from it.
        broken: whether it takes nothing any more.
        trouble: what was wrong with the content, "" for nothing.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.unsent = _NOTHING
        self.ended = self.broken = False
        self.trouble = ""
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @functools.cached_property
    def _received(self) -> memoryview:
        return memoryview(bytearray(CHUNK))  # only once the peer is accepted: before, it gets no memory

    def read(self) -> memoryview:
        """Return what has come, valid until the next call; empty for nothing now, or for the end, which sets
        `ended`.
        """
        return self._received[: self._receive()]

    def write(self, content: bytes | memoryview) -> None:
        """Send as much as the socket takes; what is not sent must stay as it is until `unsent` is empty."""
        self.unsent = memoryview(b"".join((self.unsent, content))) if self.unsent else memoryview(content)
        self.flush()

    def flush(self) -> None:
        """Send as much of what is unsent as the socket takes."""
        try:
            self.unsent = self.unsent[self.socket.send(self.unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self.broken, self.unsent = True, _NOTHING

    def finish(self) -> None:
        """Signal that nothing more will be written, where the protocol has a signal for it."""

    def _receive(self) -> int:
        try:
            size = self.socket.recv_into(self._received)
        except BlockingIOError:
            return 0
        except OSError:
            size = 0
        self.ended = not size
        return size


class Secured(Plain):
    """A socket with TLS; of no use before `handshake`. What is read and written is plaintext.

    Args:
        sock: connected.
        context: defines who is accepted.
        server: which role in the handshake.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server: bool) -> None:
        super().__init__(sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)

    @functools.cached_property
    def _content(self) -> memoryview:
        # What one receives, and what may be left before it: a part of a record, and at first what came right behind
        # the handshake.
        return memoryview(bytearray(CHUNK + 4 * _RECORD))

    @property
    def certificate(self) -> Mapping[str, Any]:
        """The peer's, as `ssl.SSLObject.getpeercert` gives it."""
        return self._tls.getpeercert() or {}

    @property
    def protocol(self) -> str | None:
        """The one that the peer named (ALPN), if it is one of the context's."""
        return self._tls.selected_alpn_protocol()

    async def handshake(self) -> None:
        """Show one's own certificate and demand the peer's.

        Raises:
            OSError: (`ssl.SSLError` is one) the peer's is not accepted, or it speaks no TLS, or left. A client that
                is not accepted by its server does not learn so here (TLS 1.3), but by what it reads next.
        """
        finished = False
        while not finished:
            try:
                self._tls.do_handshake()
                finished = True
            except ssl.SSLWantReadError:
                pass
            await asyncio.get_running_loop().sock_sendall(self.socket, self._outgoing.read())
            if not finished:
                await self._more()

    async def line(self, longest: int) -> bytes:
        """Return the next line, with its end; what came of it where there is none or a longer one. Nothing beyond is
        read.

        Raises:
            OSError: the connection broke.
        """
        found = b""
        while not found.endswith(b"\n") and len(found) < longest:
            try:
                one = self._tls.read(1)
            except ssl.SSLWantReadError:
                await self._more()
                continue
            except ssl.SSLEOFError:
                return found
            if not one:
                return found
            found += one
        return found

    async def _more(self) -> None:
        content = await asyncio.get_running_loop().sock_recv(self.socket, _RECORD)
        if content:
            self._incoming.write(content)
        else:
            self._incoming.write_eof()

    def read(self) -> memoryview:
        """Return the content of all records that have come in full; otherwise like a plain socket's."""
        self._incoming.write(self._received[: self._receive()])
        filled = 0
        try:
            while self._incoming.pending or self._tls.pending():
                rest = self._content[filled:]
                size = cast(int, self._tls.read(len(rest), rest))
                if not size:
                    self.ended = True
                    break
                filled += size
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still to come
        except ssl.SSLError as error:
            self._fail(error)
        return self._content[:filled]

    def write(self, content: bytes | memoryview) -> None:
        """Send it encrypted; the rest is in `unsent`."""
        try:
            self._tls.write(content)
        except ssl.SSLError as error:
            self._fail(error)
            return
        super().write(self._outgoing.read())

    def finish(self) -> None:
        """Send TLS's own end, so that the peer sees that nothing was cut off."""
        # It raises an error where the peer's end has not come yet, or where what comes is not TLS.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        if self._outgoing.pending:
            super().write(self._outgoing.read())

    def _fail(self, error: ssl.SSLError) -> None:
        self.ended = self.broken = True
        self.unsent = _NOTHING
        self.trouble = f"TLS broke: {error.reason or error}"
