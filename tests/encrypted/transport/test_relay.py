"""What carries the bytes of a tunnel: all of them, in order, no more than a bounded number at a time, until the end."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from privacy_pipeline.encrypted.transport import relay
from privacy_pipeline.encrypted.transport.certificates import init_parties, tls_context
from privacy_pipeline.encrypted.transport.endpoints import CHUNK, Plain, Secured

_SMALL, _MANY = 8192, 16 << 20  # bytes of a kernel's buffer, and more than all buffers on the way hold


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    folder = tmp_path_factory.mktemp("p") / "parties"
    init_parties(folder=folder)
    return tls_context(folder=folder / "server0", server=False), tls_context(folder=folder / "server1", server=True)


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


class Chain:
    """near - relay - TLS - relay - far, with small buffers in the kernel."""

    def __init__(self, contexts: Contexts) -> None:
        self.near, near = pair()
        self.far, far = pair()
        middle = pair()
        self.sides = [
            Secured(sock, context, server=s) for sock, context, s in zip(middle, contexts, (0, 1), strict=True)
        ]
        self.plain = [Plain(near), Plain(far)]
        self.counted = {"out": 0, "back": 0}

    def count(self, way: str, size: int) -> None:
        self.counted[way] += size

    async def carry(self, number: int) -> None:
        ways = ("out", "back")
        noted = [lambda size, way=way: self.count(way, size) if number == 0 else None for way in ways]
        await relay.carry(self.plain[number], self.sides[number], to_other=noted[0], to_one=noted[1])

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        """At the end both pumps have ended by themselves once the two outer sockets are closed."""
        await asyncio.gather(*(side.handshake() for side in self.sides))
        both = asyncio.gather(self.carry(0), self.carry(1))
        try:
            yield
            self.near.close()
            self.far.close()
            await asyncio.wait_for(both, 10)
            assert all(side.socket.fileno() == -1 for side in (*self.sides, *self.plain))
        finally:
            both.cancel()
            self.near.close()
            self.far.close()


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets with small buffers; TCP's would make each wait for an acknowledgement."""
    both = socket.socketpair()
    for sock in both:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SMALL)
        sock.setblocking(False)
    return both


def content(size: int, *, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


async def send(sock: socket.socket, what: bytes, *, seed: int) -> None:
    """In pieces of all sizes."""
    sizes, loop, at = random.Random(seed), asyncio.get_running_loop(), 0
    while at < len(what):
        size = sizes.choice((1, 7, 100, 16383, 16384, 16385, CHUNK, CHUNK + 1, 3 * CHUNK))
        await loop.sock_sendall(sock, what[at : at + size])
        at += size
        if sizes.random() < 0.1:
            await asyncio.sleep(0)


async def receive(sock: socket.socket, size: int) -> bytes:
    """So many bytes, or all until the end."""
    found = bytearray()
    while len(found) < size and (
        got := await asyncio.get_running_loop().sock_recv(sock, min(1 << 16, size - len(found)))
    ):
        found += got
    return bytes(found)


def run(body: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(body, 30))


@pytest.mark.parametrize("seed", range(4))
def test_large_transfers_both_ways_at_once_are_exact(contexts: Contexts, seed: int) -> None:
    out, back = content(3_000_001, seed=seed), content(4_000_003, seed=seed + 100)

    async def main() -> None:
        chain = Chain(contexts)
        async with chain.up():
            sending = asyncio.gather(send(chain.near, out, seed=seed), send(chain.far, back, seed=seed + 1))
            found = await asyncio.gather(receive(chain.far, len(out)), receive(chain.near, len(back)))
            await sending
            assert found == [out, back]
        assert chain.counted == {"out": len(out), "back": len(back)}

    run(main())


def test_a_slow_reader_holds_a_bounded_amount_and_not_the_other_direction(contexts: Contexts) -> None:
    async def main() -> None:
        chain = Chain(contexts)
        async with chain.up():
            what = content(_MANY, seed=1)
            sending = asyncio.create_task(send(chain.near, what, seed=1))
            before = -1
            while chain.counted["out"] > before:  # until nothing moves any more
                before = chain.counted["out"]
                await asyncio.sleep(0.2)
            assert 0 < before < 4 * CHUNK
            assert all(len(side.unsent) < 2 * CHUNK for side in (*chain.sides, *chain.plain))
            await asyncio.get_running_loop().sock_sendall(chain.far, b"answer")
            assert await receive(chain.near, 6) == b"answer"
            assert await receive(chain.far, len(what)) == what
            await sending

    run(main())


@pytest.mark.parametrize("end", ["near", "far"])
def test_what_was_read_before_an_end_still_arrives(contexts: Contexts, end: str) -> None:
    """To a reader that is late, and that sends something itself, which nobody reads any more."""
    what = content(30_000, seed=2)

    async def main() -> None:
        chain = Chain(contexts)
        async with chain.up():
            giver, taker = (chain.near, chain.far) if end == "near" else (chain.far, chain.near)
            await asyncio.get_running_loop().sock_sendall(taker, bytes(5000))
            await send(giver, what, seed=2)
            giver.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.3)
            assert await receive(taker, len(what) + 1) == what

    run(main())


def test_the_last_words_of_one_that_reads_nothing_any_more_arrive(contexts: Contexts) -> None:
    """They are more than fits on the way when it is found out that it takes nothing any more."""

    async def main() -> None:
        chain = Chain(contexts)
        async with chain.up():
            words = b""
            for number in range(200):
                with contextlib.suppress(BlockingIOError):
                    words += (piece := content(1000, seed=number))[: chain.far.send(piece)]
                await asyncio.sleep(0.001)
            chain.far.close()
            await asyncio.get_running_loop().sock_sendall(chain.near, b"an order that comes too late")
            await asyncio.sleep(0.1)
            assert await receive(chain.near, len(words) + 1) == words

    run(main())


def test_both_ends_of_a_broken_connection_are_closed(contexts: Contexts) -> None:
    async def main() -> None:
        chain = Chain(contexts)
        async with chain.up():
            chain.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # RST
            chain.far.close()
            assert await receive(chain.near, 1) == b""

    run(main())


def test_one_that_takes_nothing_any_more_is_an_end(contexts: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a place where bytes vanish; also if it stays open and keeps silent."""
    monkeypatch.setattr(relay, "_LAST_WORDS_SECONDS", 0.2)

    async def main() -> None:
        chain = Chain(contexts)
        async with chain.up():
            chain.far.shutdown(socket.SHUT_RD)
            chain.near.send(b"an order")
            assert await receive(chain.near, 1) == b""

    run(main())


def test_closing_takes_nothing_back_that_is_on_its_way() -> None:
    """Where a TCP socket is closed while something has come in, the kernel drops what it has still to send."""
    what = content(100_000, seed=4)

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL)
            ours.connect(listener.getsockname())
            ours.setblocking(False)
            side = Plain(listener.accept()[0])
            ours.send(b"nobody reads this")
            side.write(what)
            parting = asyncio.create_task(relay.part(side))
            await asyncio.sleep(0.1)
            assert await receive(ours, len(what) + 1) == what
            ours.close()
            await parting

    run(main())


@pytest.mark.parametrize("how", ["reads nothing", "does not close", "never stops"])
def test_a_peer_that_does_not_end_is_left_after_some_time(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(relay, "_STALLED_SECONDS", 0.2)
    monkeypatch.setattr(relay, "_PARTING_SECONDS", 0.2)

    async def main() -> None:
        near, far = pair()
        side = Plain(far)
        side.write(bytes(1 << 20 if how == "reads nothing" else 10))
        parting = asyncio.create_task(relay.part(side))
        with near:
            while not parting.done():
                if how == "never stops":
                    with contextlib.suppress(BlockingIOError, BrokenPipeError):
                        near.send(b"more")
                await asyncio.sleep(0.001)
        assert far.fileno() == -1

    run(main())


class Peer:
    """A TLS client that decides itself how its ciphertext is cut into pieces."""

    def __init__(self, context: ssl.SSLContext, sock: socket.socket) -> None:
        self.sock, self.incoming, self.outgoing = sock, ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)

    async def handshake(self) -> bytes:
        """Leaves the client's last message unsent, and gives it back."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                self.tls.do_handshake()
                return self.outgoing.read()
            except ssl.SSLWantReadError:
                await loop.sock_sendall(self.sock, self.outgoing.read())
                self.incoming.write(await loop.sock_recv(self.sock, 1 << 16))

    def encrypted(self, what: bytes) -> bytes:
        self.tls.write(what)
        return self.outgoing.read()


@contextlib.asynccontextmanager
async def served(contexts: Contexts) -> AsyncIterator[tuple[Peer, socket.socket, Secured, bytes]]:
    """A client, the far end of what a relay carries for it, the relay's side, and what ends the client's handshake."""
    ours, theirs = pair()
    near, far = pair()
    peer, side = Peer(contexts[0], ours), Secured(theirs, contexts[1], server=True)

    async def serve() -> None:
        await side.handshake()
        await relay.carry(Plain(near), side, to_other=lambda size: None, to_one=lambda size: None)

    serving = asyncio.create_task(serve())
    try:
        yield peer, far, side, await peer.handshake()
    finally:
        ours.close()
        far.close()
        await asyncio.wait_for(serving, 10)


@pytest.mark.parametrize("seed", range(3))
def test_records_in_pieces_and_many_at_once(contexts: Contexts, seed: int) -> None:
    """Also right behind the handshake, in the same segment: there is no further word about that from the kernel."""
    random_sizes = random.Random(seed)

    async def main() -> None:
        async with served(contexts) as (peer, far, _, last):
            first = content(40, seed=seed)
            await asyncio.get_running_loop().sock_sendall(peer.sock, last + peer.encrypted(first))
            assert await receive(far, len(first)) == first
            whole, sent = b"", b""
            for _ in range(300):
                piece = content(random_sizes.choice((1, 2, 50, 1000, 16384, 20000)), seed=len(whole))
                whole += piece
                sent += peer.encrypted(piece)
            receiving = asyncio.create_task(receive(far, len(whole)))
            at = 0
            while at < len(sent):
                size = random_sizes.choice((1, 4, 5, 6, 1000, 16406, 50_000))
                await asyncio.get_running_loop().sock_sendall(peer.sock, sent[at : at + size])
                await asyncio.sleep(0)
                at += size
            assert await receiving == whole

    run(main())


@pytest.mark.parametrize("how", ["changed", "cut off"])
def test_a_record_that_is_not_whole_gives_nothing(contexts: Contexts, how: str) -> None:
    async def main() -> None:
        async with served(contexts) as (peer, far, side, last):
            good, bad = peer.encrypted(b"whole"), bytearray(peer.encrypted(b"secret" * 1000))
            if how == "changed":
                bad[-1] ^= 1
            else:
                del bad[-1]
            await asyncio.get_running_loop().sock_sendall(peer.sock, last + good + bytes(bad))
            if how == "cut off":
                peer.sock.shutdown(socket.SHUT_WR)
            assert await receive(far, 1000) == b"whole"
            await asyncio.sleep(0.1)
            assert side.socket.fileno() == -1  # it does not wait for an end that nobody could believe
            assert side.trouble == ("TLS broke: DECRYPTION_FAILED_OR_BAD_RECORD_MAC" if how == "changed" else "")

    run(main())


def test_the_end_is_said_in_tls(contexts: Contexts) -> None:
    """So a peer can tell the end from a connection that was cut."""

    async def main() -> None:
        async with served(contexts) as (peer, far, _, last):
            await asyncio.get_running_loop().sock_sendall(peer.sock, last)
            await asyncio.get_running_loop().sock_sendall(far, b"all")
            far.close()
            peer.incoming.write(await receive(peer.sock, 1 << 16))
            peer.incoming.write_eof()
            assert peer.tls.read(100) == b"all"
            assert peer.tls.read(100) == b""  # else ssl.SSLEOFError
            assert (
                peer.tls.session is not None and not peer.tls.session.has_ticket
            )  # to be resumed without a certificate

    run(main())


def test_small_messages_do_not_wait_for_an_acknowledgement() -> None:
    """Sockets that a listener accepts have no TCP_NODELAY by themselves, and asyncio sets it only for some."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        sock, _ = listener.accept()
        with sock:
            assert not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            Plain(sock)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
