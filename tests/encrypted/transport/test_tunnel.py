"""The tunnel between parties: bytes pass between the expected parties, and before that nothing passes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from privacy_pipeline.encrypted.transport import certificates, relay, tunnel
from privacy_pipeline.encrypted.transport.certificates import init_parties, tls_context
from privacy_pipeline.encrypted.transport.identities import PARTIES
from privacy_pipeline.encrypted.transport.joins import TunnelRecord
from privacy_pipeline.encrypted.transport.pace import Speed
from privacy_pipeline.encrypted.transport.sockets import to_unix, unix_listener
from privacy_pipeline.encrypted.transport.tunnel import SHARES, TENSORFLOW, Route, open_egress, open_ingress, probe
from privacy_pipeline.errors import BadInputError, PipelineError
from tests.encrypted.issuing import reissued

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

    async def send(
        self, *, sender: Path, expected: str = "server1", protocol: str = TENSORFLOW, speed: Speed | None = None
    ) -> bytes:
        """What comes back for `_SHARE` sent through the sender's egress."""
        source = self.scratch / "out"
        task = await open_egress(
            folder=sender,
            listener=unix_listener(source),
            address=("127.0.0.1", self.port),
            expected=expected,
            record=self.egress,
            protocol=protocol,
            speed=speed,
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
            servers = frozenset({"server0", "server2"})
            routes = {
                TENSORFLOW: Route(allowed=servers, connect=to_unix(target)),
                SHARES: Route(allowed=frozenset({"prediction-client"}), connect=to_unix(target), names_role=True),
            }
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]
            task = await open_ingress(
                folder=own or self.folder / "server1",
                address=("127.0.0.1", self.port),
                routes=routes,
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
    assert link.egress.refused == [f"server2 at 127.0.0.1:{link.port}: certificate is not of server2"]


def test_a_certificate_of_another_authority_is_refused(parties: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    init_parties(folder=other)
    link = _Link(parties, tmp_path)
    assert link.run(lambda: link.send(sender=other / "server0")) == b""
    assert link.reached == b"" and link.egress.bytes_out == 0
    assert "verify failed" in link.egress.refused[0] and "no mutual TLS" in link.ingress.refused[0]


def test_an_expired_certificate_of_the_peer_is_refused(parties: Path, tmp_path: Path) -> None:
    expired = reissued(parties, tmp_path, "server1", role="server1", days=-0.5)
    link = _Link(expired, tmp_path)
    assert link.run(lambda: link.send(sender=expired / "server0")) == b""
    assert link.reached == b"" and link.egress.bytes_out == 0
    assert "certificate has expired" in link.egress.refused[0]


def test_an_expired_certificate_of_ones_own_is_named_before_anybody_is_called(parties: Path, tmp_path: Path) -> None:
    expired = reissued(parties, tmp_path, "server0", role="server0", days=-0.5)
    link = _Link(parties, tmp_path)
    with pytest.raises(PipelineError, match=r"server0/certificate\.pem: expired, or not valid yet"):
        link.run(lambda: link.send(sender=expired / "server0"))


@pytest.mark.parametrize("protocol", [TENSORFLOW, SHARES])
def test_an_expired_certificate_of_ones_own_is_refused_by_the_peer(
    parties: Path, tmp_path: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer says so only after the handshake, so the sender must wait for its word."""
    monkeypatch.setattr(certificates, "require_current", lambda path: None)
    expired = reissued(parties, tmp_path, "server0", role="server0", days=-0.5)
    link = _Link(parties, tmp_path)
    assert link.run(lambda: link.send(sender=expired / "server0", protocol=protocol)) == b""
    assert link.reached == b"" and link.egress.bytes_out == 0
    assert "certificate has expired" in link.ingress.refused[0]
    assert "refuses: it closed the connection (does it accept our certificate?)" in link.egress.refused[0]


@pytest.mark.parametrize(("role", "why"), [("server1", "is not of server0, server2"), ("driver", "is not of server0")])
def test_a_key_with_the_certificate_of_another_role_is_refused(
    parties: Path, tmp_path: Path, role: str, why: str
) -> None:
    link = _Link(parties, tmp_path)
    wrong = reissued(parties, tmp_path, "server0", role=role)
    assert link.run(lambda: link.send(sender=wrong / "server0")) == b""
    assert link.reached == b"" and why in link.ingress.refused[0] and why in link.egress.refused[0]


def test_the_protocol_decides_which_roles_may(parties: Path, tmp_path: Path) -> None:
    link = _Link(parties, tmp_path)
    assert link.run(lambda: link.send(sender=parties / "server0", protocol=SHARES)) == b""
    assert "is not of prediction-client" in link.ingress.refused[0]
    other = _Link(parties, tmp_path / "b")
    other.scratch.mkdir()
    assert other.run(lambda: other.send(sender=parties / "server0", protocol="http/1.1")) == b""
    assert other.ingress.refused == ["the peer names no protocol that is served here"]
    assert link.reached == other.reached == b""


def test_the_desk_is_told_the_role_of_its_peer(parties: Path, tmp_path: Path) -> None:
    link = _Link(parties, tmp_path)

    async def client() -> bytes:
        context = tls_context(folder=parties / "prediction-client", server=False)
        context.set_alpn_protocols([SHARES])
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port, ssl=context, server_hostname="")
        writer.write(b"hello")
        answer = await asyncio.wait_for(reader.readuntil(b"hello"), 5)
        writer.close()
        return answer

    certificate = x509.load_pem_x509_certificate((parties / "prediction-client/certificate.pem").read_bytes())
    assert link.run(client) == f"prediction-client {certificate.serial_number:x}\nhello".encode()


def test_a_party_that_does_not_compute_yet_says_so(parties: Path, tmp_path: Path) -> None:
    link = _Link(parties, tmp_path)

    async def ask() -> bytes:
        (tmp_path / "in").unlink()
        with pytest.raises(PipelineError, match=r"server1 at .* refuses: the party is down"):
            await probe(folder=parties / "server0", address=("127.0.0.1", link.port), expected="server1")
        return b""

    link.run(ask)


def test_nobody_at_the_address_is_one_clear_line(parties: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(PipelineError, match=rf"server1 at 127.0.0.1:{port} is not reached"):
        asyncio.run(probe(folder=parties / "server0", address=("127.0.0.1", port), expected="server1"))


def test_delay_and_rate_apply_in_both_directions(parties: Path, tmp_path: Path) -> None:
    """112 kB there and back: a round trip of 600 ms; 0.9 s at 1 Mbit/s each way, partly at the same time."""
    for name, speed, least in (("a", Speed(delay_ms=300), 0.6), ("b", Speed(rate_mbps=1), 0.89)):
        link = _Link(parties, tmp_path / name)
        link.scratch.mkdir()
        began = time.monotonic()
        assert link.run(lambda s=speed, on=link: on.send(sender=parties / "server0", speed=s)) == _SHARE
        assert time.monotonic() - began >= least
        assert link.egress.bytes_out == link.egress.bytes_in == len(_SHARE)


def test_what_is_still_under_way_at_the_end_arrives_late_and_in_full(
    parties: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_PARTING_SECONDS", 0.05)

    class Closing(_Link):
        async def echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(len(_SHARE)))
            writer.close()

    link, began = Closing(parties, tmp_path), time.monotonic()
    assert link.run(lambda: link.send(sender=parties / "server0", speed=Speed(delay_ms=300))) == _SHARE
    assert time.monotonic() - began >= 0.6


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


def test_a_peer_that_speaks_no_tls_gets_nothing(parties: Path, tmp_path: Path) -> None:
    """TLS off at the other end: it sees the beginning of a handshake, and no byte of what was to be sent."""
    link = _Link(parties, tmp_path)

    async def main() -> bytes:
        plain = await asyncio.start_server(link.echo, "127.0.0.1", 0)
        link.port = plain.sockets[0].getsockname()[1]
        async with plain:
            return await link.send(sender=parties / "server0")

    assert asyncio.run(main()) == b""
    assert link.reached[:1] == b"\x16" and _SHARE[:20] not in link.reached and link.egress.bytes_out == 0
    assert "server1 at" in link.egress.refused[0] and "no mutual TLS" in link.egress.refused[0]


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


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
def test_a_peer_that_stops_in_its_handshake_keeps_nobody_waiting(
    parties: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(tunnel, "_HANDSHAKE_SECONDS", 0.5)
    link = _Link(parties, tmp_path)

    async def others_meanwhile() -> bytes:
        with contextlib.ExitStack() as stack:
            stalled = [stack.enter_context(socket.create_connection(("127.0.0.1", link.port))) for _ in range(20)]
            for one in stalled:
                one.sendall(sent)
            found = await link.send(sender=parties / "server0")
            assert not link.ingress.refused  # they still wait
            await asyncio.sleep(0.7)
            for one in stalled:
                one.settimeout(0)
                assert one.recv(1) == b""
        return found

    assert link.run(others_meanwhile) == _SHARE
    assert link.ingress.refused == ["no mutual TLS: no handshake within 0.5 s"] * 20


@pytest.mark.parametrize("last", ["nothing", "all but its word"])
def test_a_silent_party_is_said_in_time(
    parties: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """It accepts the connection and says nothing, or does its handshake and never that it accepts."""
    monkeypatch.setattr(tunnel, "_HANDSHAKE_SECONDS", 0.5)
    link = _Link(parties, tmp_path)

    async def main() -> bytes:
        context = tls_context(folder=parties / "server1", server=True) if last != "nothing" else None
        silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=context)
        link.port = silent.sockets[0].getsockname()[1]
        async with silent:
            return await link.send(sender=parties / "server0")

    assert asyncio.run(main()) == b"" and link.egress.bytes_out == 0
    why = "no mutual TLS: no handshake within 0.5 s" if last == "nothing" else "no answer"
    assert len(link.egress.refused) == 1 and why in link.egress.refused[0]


def test_a_peer_that_reads_nothing_keeps_nobody_else_waiting(parties: Path, tmp_path: Path) -> None:
    link = _Link(parties, tmp_path)

    async def others_meanwhile() -> bytes:
        context = tls_context(folder=parties / "server2", server=False)
        context.set_alpn_protocols([TENSORFLOW])
        _, writer = await asyncio.open_connection("127.0.0.1", link.port, ssl=context, server_hostname="", limit=1)
        with pytest.raises(asyncio.TimeoutError):  # the echo waits for it, and so it waits itself
            for _ in range(256):  # MiB, more than all buffers between them have room for
                writer.write(bytes(1 << 20))
                await asyncio.wait_for(writer.drain(), 1.0)
        try:
            return await link.send(sender=parties / "server0")
        finally:
            writer.transport.abort()

    assert link.run(others_meanwhile) == _SHARE


def test_a_connection_that_cannot_be_accepted_is_said_and_does_not_end_the_others(
    parties: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = _Link(parties, tmp_path)
    loop_class = asyncio.SelectorEventLoop
    accept, failed = loop_class.sock_accept, []

    async def fails_first(self: asyncio.AbstractEventLoop, sock: socket.socket) -> Any:
        if not failed:
            failed.append(sock)
            raise OSError(errno.EMFILE, "Too many open files")
        return await accept(self, sock)  # type: ignore[arg-type]

    monkeypatch.setattr(loop_class, "sock_accept", fails_first)
    assert link.run(lambda: link.send(sender=parties / "server0")) == _SHARE
    assert link.ingress.refused == ["a connection cannot be accepted: [Errno 24] Too many open files"]


def test_what_was_changed_on_its_way_is_said_and_goes_no_further(parties: Path, tmp_path: Path) -> None:
    link = _Link(parties, tmp_path)
    seen = 0

    async def change(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        while content := bytearray(await reader.read(1 << 16)):
            seen += len(content)
            if seen > 20_000:  # the handshake is over
                content[-1] ^= 1
            writer.write(content)

    async def main() -> bytes:
        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            onward = await asyncio.open_connection("127.0.0.1", real)
            await asyncio.gather(change(reader, onward[1]), change(onward[0], writer), return_exceptions=True)
            onward[1].close()
            writer.close()

        between = await asyncio.start_server(carry, "127.0.0.1", 0)
        real, link.port = link.port, between.sockets[0].getsockname()[1]
        async with between:
            return await link.send(sender=parties / "server0")

    assert link.run(main) == b""
    assert "TLS broke: DECRYPTION_FAILED_OR_BAD_RECORD_MAC" in [*link.ingress.refused, *link.egress.refused]
    assert _SHARE.startswith(link.reached) and len(link.reached) < len(_SHARE)


def test_files_are_private_and_never_overwritten(parties: Path) -> None:
    files = [path for path in parties.rglob("*") if path.is_file()]
    assert len(files) == 3 * len(PARTIES) + 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    with pytest.raises(BadInputError, match="not empty"):
        init_parties(folder=parties)


@pytest.mark.parametrize("written", range(3 * len(PARTIES) + 2))
def test_a_folder_that_was_half_made_is_made_anew(
    written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Nothing handles it, as nothing handles SIGKILL."""

    files: list[Path] = []

    def until_it_dies(real: Callable[..., None]) -> Callable[..., None]:
        def write(*args: Any, **named: Any) -> None:
            if len(files) == written:
                raise Killed
            files.append(named.get("path") or args[0])
            real(*args, **named)

        return write

    folder = tmp_path / "parties"
    with monkeypatch.context() as patched, pytest.raises(Killed):
        for name in ("_write", "write_new"):
            patched.setattr(certificates, name, until_it_dies(getattr(certificates, name)))
        init_parties(folder=folder)
    kept = {path: path.read_bytes() for path in files}
    init_parties(folder=folder)
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 3 * len(PARTIES) + 2
    assert not any(path.read_bytes() == content for path, content in kept.items())
    for party in PARTIES:
        certificates.client_context(folder=folder / party, protocol="any")


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca/key.pem").write_text("mine")
    with pytest.raises(BadInputError, match="not empty"):
        init_parties(folder=tmp_path)
    (tmp_path / ".making").touch()
    (tmp_path / "parties.yaml").touch()
    with pytest.raises(BadInputError, match="not empty"):
        init_parties(folder=tmp_path)
    assert (tmp_path / "ca/key.pem").read_text() == "mine"


def test_one_host_for_each_party(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="2 addresses for 6 parties"):
        init_parties(folder=tmp_path / "p", hosts=("a", "b"))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="not usable"):
        tls_context(folder=tmp_path, server=True)
