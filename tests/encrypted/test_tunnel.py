"""The tunnel between parties: bytes pass between the expected parties, and before that nothing passes."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from privacy_pipeline.encrypted.certificates import PARTIES, init_parties
from privacy_pipeline.encrypted.tunnel import TunnelRecord, open_egress, open_ingress, tls_context
from privacy_pipeline.errors import BadInputError, PipelineError

_SHARE = b"a share that nobody may read" * 4000


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("p") / "parties"
    init_parties(folder=folder)
    return folder


class _Link:
    """server1's ingress before an echo server, and what reached the echo server."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder, self.scratch = folder, scratch
        self.ingress, self.egress = TunnelRecord(), TunnelRecord()
        self.reached = b""
        self.port = 0

    async def echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while content := await reader.read(1 << 16):
            self.reached += content
            writer.write(content)
            await writer.drain()
        writer.close()

    async def send(self, *, sender: Path, expected: str = "server1") -> bytes:
        """What comes back for `_SHARE` sent through the sender's egress."""
        source = self.scratch / "out"
        task = await open_egress(
            folder=sender, source=source, address=("127.0.0.1", self.port), expected=expected, record=self.egress
        )
        try:
            reader, writer = await asyncio.open_unix_connection(str(source))
            writer.write(_SHARE)
            return await asyncio.wait_for(reader.readexactly(len(_SHARE)), 5)
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        finally:
            writer.close()
            task.cancel()

    def run(self, body: Callable[[], Coroutine[None, None, bytes]], own: Path | None = None) -> bytes:
        async def main() -> bytes:
            target = self.scratch / "in"
            server = await asyncio.start_unix_server(self.echo, str(target))
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]
            task = await open_ingress(
                folder=own or self.folder / "server1",
                address=("127.0.0.1", self.port),
                target=target,
                allowed=frozenset({"server0", "server2"}),
                record=self.ingress,
            )
            try:
                return await body()
            finally:
                await asyncio.sleep(0.05)
                task.cancel()
                server.close()

        return asyncio.run(main())


def test_bytes_pass_between_the_expected_parties_and_are_counted(parties: Path, tmp_path: Path) -> None:
    link = _Link(parties, tmp_path)
    assert link.run(lambda: link.send(sender=parties / "server0")) == _SHARE
    assert link.egress.bytes_out == link.egress.bytes_in == link.ingress.bytes_in == len(_SHARE)
    assert not link.ingress.refused and not link.egress.refused


def test_a_party_that_is_not_allowed_is_refused(parties: Path, tmp_path: Path) -> None:
    link = _Link(parties, tmp_path)
    assert link.run(lambda: link.send(sender=parties / "prediction-client")) == b""
    assert link.reached == b"" and "not of server0, server2" in link.ingress.refused[0]


def test_nothing_is_sent_to_the_wrong_party(parties: Path, tmp_path: Path) -> None:
    link = _Link(parties, tmp_path)
    assert link.run(lambda: link.send(sender=parties / "server0", expected="server2")) == b""
    assert link.reached == b"" and link.egress.bytes_out == 0
    assert link.egress.refused == ["certificate is not of server2"]


@pytest.mark.parametrize(("days", "reason"), [(-0.5, "expired"), (90.0, "verify failed")])
def test_expired_and_foreign_certificates_are_refused(parties: Path, tmp_path: Path, days: float, reason: str) -> None:
    """A second authority: its own certificates, expired or not."""
    other = tmp_path / "other"
    init_parties(folder=other, days=days)
    link = _Link(other if days < 0 else parties, tmp_path)
    assert link.run(lambda: link.send(sender=other / "server0")) == b""
    assert link.reached == b"" and link.egress.bytes_out == 0
    assert reason in link.egress.refused[0]


def test_a_plaintext_client_reaches_nothing(parties: Path, tmp_path: Path) -> None:
    link = _Link(parties, tmp_path)

    async def plaintext() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100))
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer

    link.run(plaintext)
    assert link.reached == b"" and "no mutual TLS" in link.ingress.refused[0]


def test_a_client_without_a_certificate_reaches_nothing(parties: Path, tmp_path: Path) -> None:
    link = _Link(parties, tmp_path)

    async def anonymous() -> bytes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(parties / "server0" / "ca.pem")
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", link.port, ssl=context)
            writer.write(b"hello")
            return await asyncio.wait_for(reader.read(), 5)
        except OSError:
            return b""

    assert link.run(anonymous) == b""
    assert link.reached == b"" and "no mutual TLS" in link.ingress.refused[0]


def test_files_are_private_and_never_overwritten(parties: Path) -> None:
    files = [path for path in parties.rglob("*") if path.is_file()]
    assert len(files) == 3 * len(PARTIES) + 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    with pytest.raises(BadInputError, match="not empty"):
        init_parties(folder=parties)


def test_one_host_for_each_party(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="2 addresses for 6 parties"):
        init_parties(folder=tmp_path / "p", hosts=("a", "b"))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="not usable"):
        tls_context(folder=tmp_path, server=True)
