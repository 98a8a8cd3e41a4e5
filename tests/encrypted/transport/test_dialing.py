"""Connections to a share server: the expected party, or one error in time."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from privacy_pipeline.encrypted.transport import dialing, frames
from privacy_pipeline.encrypted.transport.certificates import client_context
from privacy_pipeline.encrypted.transport.dialing import (
    Link,
    PartyError,
    RefusedError,
    SilentError,
    addresses,
    dial,
    listen,
)
from privacy_pipeline.encrypted.transport.identities import Peer
from privacy_pipeline.encrypted.transport.tunnel import SHARES
from tests.encrypted.deployment import make_parties

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_parties(tmp_path_factory.mktemp("p") / "parties")


def as_driver(parties: Path) -> ssl.SSLContext:
    return client_context(folder=parties / "driver", protocol=SHARES)


def asked(parties: Path, serve: Serve, *, own: str = "server0", expected: str = "server0") -> frames.Header:
    """What server0, who serves so, answers to the driver, who looks for `expected` there."""

    async def main() -> frames.Header:
        address = addresses(parties)["server0"]
        server = await listen(folder=parties / own, address=address, allowed=frozenset({"driver"}), serve=serve)
        try:
            async with dial(context=as_driver(parties), address=address, expected=expected) as link:
                return (await ask(link))[0]
        finally:
            server.close()

    return asyncio.run(main())


async def ask(link: Link) -> tuple[frames.Header, bytes]:
    return await link.ask({"op": "status"}, seconds=0.5)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
    await frames.read_header(reader)
    await frames.write(writer, {"fine": 1})


def test_the_expected_party_answers(parties: Path) -> None:
    assert asked(parties, answer) == {"fine": 1}


def test_another_party_at_the_address_gets_no_byte(parties: Path) -> None:
    got: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
        got.append(await reader.read(100))

    with pytest.raises(PartyError, match="server0 shows the certificate of somebody else"):
        asked(parties, note, own="server1")
    assert got in ([], [b""])


def test_an_error_is_told_as_that_of_the_party(parties: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
        await frames.write(writer, {"error": "no"})

    with pytest.raises(RefusedError, match="server0 refuses: no"):
        asked(parties, refuse)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "closed the connection"),
        (b"\0\0\0\2{}" + b"\xff" * 8, "sent something that is not an answer"),
        (b"\0\0\0\2[]" + bytes(8), "sent something that is not an answer .*not a JSON object"),
        (b"\0\0\0\2{", "sent something that is not an answer .*cut off"),
        (b"\xff" * 4, "sent something that is not an answer .*exceeds"),
        (b"\0\0\x60\0" + b"[" * 0x6000 + bytes(8), "sent something that is not an answer .*not JSON"),
    ],
)
def test_what_is_no_answer_is_said(parties: Path, content: bytes, says: str) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
        await frames.read_header(reader)
        writer.write(content)

    with pytest.raises(PartyError, match=f"server0 {says}"):
        asked(parties, speak)


def test_a_party_that_says_nothing_is_named_in_time(parties: Path) -> None:
    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
        await reader.read()

    with pytest.raises(SilentError, match=r"server0 does not answer within 0\.5 s"):
        asked(parties, wait)


def test_a_port_without_tls_is_named_in_time(parties: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "CONNECT_SECONDS", 0.3)

    async def main(address: tuple[str, int]) -> None:
        async with dial(context=as_driver(parties), address=address, expected="server2"):
            pass

    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(SilentError, match="server2 does not answer"):
        asyncio.run(main(silent.getsockname()))
    with pytest.raises(SilentError, match="server2 is not reached"):
        asyncio.run(main(addresses(parties)["server2"]))
