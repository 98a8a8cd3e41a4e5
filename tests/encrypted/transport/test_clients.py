"""Clients with certificates of their own: what is made for them, and what becomes of one that is revoked."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from typer.testing import CliRunner

from privacy_pipeline.cli.main import app
from privacy_pipeline.encrypted.transport import clients, frames, joins, limits
from privacy_pipeline.encrypted.transport.certificates import client_context, init_parties
from privacy_pipeline.encrypted.transport.dialing import RefusedError, dial, listen
from privacy_pipeline.encrypted.transport.frames import BadMessageError
from privacy_pipeline.encrypted.transport.identities import CLIENT, REVOKED, Peer, Revocations
from privacy_pipeline.encrypted.transport.joins import TunnelRecord
from privacy_pipeline.encrypted.transport.sockets import to_unix
from privacy_pipeline.encrypted.transport.tunnel import SHARES, Route, open_ingress
from privacy_pipeline.errors import BadInputError, PipelineError
from tests.encrypted.issuing import reissued


@pytest.fixture
def parties(tmp_path: Path) -> Path:
    folder = tmp_path / "parties"
    init_parties(folder=folder)
    return folder


def free_address() -> tuple[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return "127.0.0.1", free.getsockname()[1]


async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
    try:
        while True:
            await frames.read_header(reader)
            await frames.write(writer, {"you": peer.name, "serial": peer.serial})
    except (EOFError, OSError):
        return


def asked(parties: Path, own: Path, *, times: int = 1, expected: str = "driver") -> list[Any]:
    """What a service answers to so many connections of a client that are open together."""

    async def main() -> list[Any]:
        address = free_address()
        server = await listen(folder=parties / "driver", address=address, allowed=frozenset({CLIENT}), serve=served)
        context = client_context(folder=own, protocol=SHARES)
        answers: list[Any] = []

        async def ask(left: int) -> None:
            async with dial(context=context, address=address, expected=expected) as link:
                try:
                    answers.append((await link.ask({"op": "hello"}, seconds=5))[0])
                except RefusedError as error:
                    answers.append(str(error))
                if left > 1:
                    await ask(left - 1)

        try:
            await ask(times)
        finally:
            server.close()
        return answers

    return asyncio.run(main())


def through_an_ingress(parties: Path, own: Path, scratch: Path) -> tuple[Any, list[str]]:
    """What a server's desk answers to a client, and whom the server refused."""
    record = TunnelRecord()

    async def desk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        role = (await reader.readline()).decode().strip()
        await frames.read_header(reader)
        await frames.write(writer, {"you": role})
        writer.close()

    async def main() -> Any:
        address, target = free_address(), scratch / "desk"
        server = await asyncio.start_unix_server(desk, str(target))
        routes = {SHARES: Route(allowed=frozenset({CLIENT}), connect=to_unix(target), names_role=True)}
        ingress = await open_ingress(folder=parties / "server0", address=address, routes=routes, record=record)
        context = client_context(folder=own, protocol=SHARES)
        try:
            async with dial(context=context, address=address, expected="server0") as link:
                return (await link.ask({"op": "hello"}, seconds=5))[0]
        except RefusedError as error:
            return str(error)
        finally:
            ingress.cancel()
            server.close()

    return asyncio.run(main()), record.refused


def test_a_client_is_known_by_its_own_name_and_certificate(parties: Path) -> None:
    own = clients.add_client(folder=parties, name="anna")
    assert (own / "parties.yaml").read_text() == (parties / "parties.yaml").read_text()
    assert [oct(path.stat().st_mode & 0o777) for path in (own, own / CLIENT, own / CLIENT / "key.pem")] == [
        "0o700", "0o700", "0o600"
    ]  # fmt: skip
    (anna,), (shared,) = asked(parties, own / CLIENT), asked(parties, parties / CLIENT)
    assert (anna["you"], shared["you"]) == ("anna", CLIENT)
    certificate = x509.load_pem_x509_certificate((own / CLIENT / "certificate.pem").read_bytes())
    assert anna["serial"] == f"{certificate.serial_number:x}" != shared["serial"]


def test_a_revoked_client_is_refused_everywhere_and_the_others_are_not(parties: Path, tmp_path: Path) -> None:
    anna, bert = (clients.add_client(folder=parties, name=name) / CLIENT for name in ("anna", "bert"))
    written = clients.revoke(folder=parties, name="anna")
    assert parties / "server0" / REVOKED in written and parties / "driver" / REVOKED in written
    assert asked(parties, anna) == ["driver refuses: the certificate of anna is revoked"]
    assert asked(parties, bert)[0]["you"] == "bert"
    answer, refused = through_an_ingress(parties, anna, tmp_path)
    assert answer == "server0 refuses: the certificate of anna is revoked"
    assert refused == ["the certificate of anna is revoked"]
    assert through_an_ingress(parties, bert, tmp_path)[0]["you"].startswith(f"{CLIENT} ")
    # A second one, the client that every deployment has, and one that is made only now.
    clients.revoke(folder=parties, name="bert")
    clients.revoke(folder=parties, name=CLIENT)
    carl = clients.add_client(folder=parties, name="carl") / CLIENT
    for own in (anna, bert, parties / CLIENT):
        assert "is revoked" in asked(parties, own)[0]
    assert asked(parties, carl)[0]["you"] == "carl"
    assert [one.name for one in clients.issued(folder=parties) if one.revoked] == [CLIENT, "anna", "bert"]


def test_a_connection_that_is_open_ends_when_its_certificate_is_revoked(
    parties: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joins, "_REVOKED_SECONDS", 0.05)
    anna, bert = (clients.add_client(folder=parties, name=name) / CLIENT for name in ("anna", "bert"))
    record = TunnelRecord()

    async def desk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        with contextlib.suppress(EOFError, OSError):
            while True:
                await frames.read_header(reader)
                await frames.write(writer, {"you": "in"})
        writer.close()

    async def main() -> None:
        address, target = free_address(), tmp_path / "desk"
        server = await asyncio.start_unix_server(desk, str(target))
        routes = {SHARES: Route(allowed=frozenset({CLIENT}), connect=to_unix(target), names_role=True)}
        ingress = await open_ingress(folder=parties / "server0", address=address, routes=routes, record=record)
        of_anna, of_bert = (client_context(folder=own, protocol=SHARES) for own in (anna, bert))
        try:
            async with (
                dial(context=of_anna, address=address, expected="server0") as revoked,
                dial(context=of_bert, address=address, expected="server0") as other,
            ):
                for link in (revoked, other):
                    assert (await link.ask({"op": "hello"}, seconds=5))[0] == {"you": "in"}
                clients.revoke(folder=parties, name="anna")
                assert await asyncio.wait_for(revoked.reader.read(), 20) == b""
                assert (await other.ask({"op": "hello"}, seconds=5))[0] == {"you": "in"}
        finally:
            ingress.cancel()
            server.close()

    asyncio.run(main())
    assert record.refused == ["the certificate of anna is revoked"]


def test_a_revoked_party_is_called_by_nobody(parties: Path) -> None:
    clients.revoke(folder=parties, name="driver")
    with pytest.raises(PipelineError, match="the certificate of driver is revoked"):
        asked(parties, parties / CLIENT)


def test_a_party_that_runs_takes_a_new_list_up(parties: Path) -> None:
    own = clients.add_client(folder=parties, name="anna") / CLIENT

    async def main() -> list[str]:
        address = free_address()
        server = await listen(folder=parties / "driver", address=address, allowed=frozenset({CLIENT}), serve=served)
        found = []
        for _ in range(2):
            async with dial(
                context=client_context(folder=own, protocol=SHARES), address=address, expected="driver"
            ) as link:
                try:
                    found.append((await link.ask({"op": "hello"}, seconds=5))[0]["you"])
                except RefusedError as error:
                    found.append(str(error))
            clients.revoke(folder=parties, name="anna")
        server.close()
        return found

    assert asyncio.run(main()) == ["anna", "driver refuses: the certificate of anna is revoked"]


@pytest.mark.parametrize("kind", ["garbage", "another authority", "changed"])
def test_a_list_that_is_not_the_authoritys_lets_nobody_in(parties: Path, tmp_path: Path, kind: str) -> None:
    clients.revoke(folder=parties, name="weights-provider")
    path = parties / "driver" / REVOKED
    if kind == "another authority":
        other = tmp_path / "other"
        init_parties(folder=other)
        clients.revoke(folder=other, name="driver")
        path.write_bytes((other / "driver" / REVOKED).read_bytes())
    elif kind == "changed":
        lines = path.read_text().splitlines()
        lines[3] = lines[3][:8] + ("A" if lines[3][8] != "A" else "B") + lines[3][9:]
        path.write_text("\n".join(lines))
    else:
        path.write_text("nothing of the kind")
    (said,) = asked(parties, parties / CLIENT)
    assert "revoked.pem: not usable" in said


def test_who_cannot_be_revoked_or_added_is_one_line(parties: Path) -> None:
    clients.add_client(folder=parties, name="anna")
    for name, says in (("anna", "already"), ("../b", "not a name"), ("driver", "not a name"), ("", "not a name")):
        with pytest.raises(BadInputError, match=says):
            clients.add_client(folder=parties, name=name)
    for name in ("nobody", "../anna", "anna/prediction-client"):
        with pytest.raises(BadInputError, match="there is no such client"):
            clients.revoke(folder=parties, name=name)
    (parties / "ca" / "key.pem").unlink()
    with pytest.raises(BadInputError, match=r"ca/key\.pem: not usable"):
        clients.add_client(folder=parties, name="bert")


def test_what_a_killed_call_left_of_a_client_goes_with_the_next(parties: Path) -> None:
    """Its certificate is whole and valid, and nobody lists it."""
    left = clients.add_client(folder=parties, name="anna")
    left.rename(left.with_name(".anna.part"))
    clients.add_client(folder=parties, name="bert")
    assert [path.name for path in left.parent.iterdir()] == ["bert"]


def test_revocations_at_the_same_time_are_all_kept(parties: Path) -> None:
    names = [f"client-{number}" for number in range(6)]
    for name in names:
        clients.add_client(folder=parties, name=name)
    workers = [threading.Thread(target=clients.revoke, kwargs={"folder": parties, "name": name}) for name in names]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    assert [one.name for one in clients.issued(folder=parties) if one.revoked] == names


def test_an_expired_certificate_is_named_at_both_ends(parties: Path, tmp_path: Path) -> None:
    expired = reissued(parties, tmp_path / "own", CLIENT, role=CLIENT, days=-0.5)
    with pytest.raises(PipelineError, match=r"prediction-client/certificate\.pem: expired, or not valid yet"):
        asked(parties, expired / CLIENT)
    of_driver = reissued(parties, tmp_path / "driver", "driver", role="driver", days=-0.5)
    with pytest.raises(PipelineError, match="driver shows a certificate that is not accepted: certificate has expired"):
        asked(of_driver, parties / CLIENT)


def test_a_client_has_so_many_connections_and_the_others_have_theirs(
    parties: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_OF_A_CLIENT", 3)
    own = clients.add_client(folder=parties, name="anna") / CLIENT
    *fine, last = asked(parties, own, times=4)
    assert [one["you"] for one in fine] == ["anna"] * 3
    assert last == "driver refuses: anna has 3 connections already, the most that are served"
    assert asked(parties, own, times=3)[-1]["you"] == "anna"  # those of before are not counted any more


def read(content: bytes, *, size: int, arrived: Any = lambda size: None, ends: bool = True) -> bytes:
    async def main() -> bytes:
        reader = asyncio.StreamReader()
        reader.feed_data(content)
        if ends:
            reader.feed_eof()
        return await frames.read_payload(reader, size, expected=size, arrived=arrived)

    return asyncio.run(main())


def test_a_payload_is_counted_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []
    content = bytes(range(256)) * 1024
    assert read(content, size=len(content), arrived=pieces.append) == content
    assert sum(pieces) == len(content) and len(pieces) > 2

    def full(size: int) -> None:
        raise BadMessageError("full")

    with pytest.raises(BadMessageError, match="full"):
        read(b"x", size=1 << 30, arrived=full)
    with pytest.raises(BadMessageError, match="cut off"):
        read(b"x", size=2)
    monkeypatch.setattr(frames, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(BadMessageError, match="comes slower than 64 KiB a second"):
        read(b"x", size=1 << 30, ends=False)


def test_a_header_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "HEADER_SECONDS", 0.05)

    async def main() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(b"\0\0")
        await frames.read_header(reader)

    with pytest.raises(BadMessageError, match=r"header does not come within 0\.05 s"):
        asyncio.run(main())


@pytest.mark.parametrize("days", ["0", "36501", "9" * 30])
def test_certificates_that_no_calendar_has_are_refused(days: str, tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["encrypted", "init-parties", str(tmp_path / "new"), "--days", days])
    assert found.exit_code == 2 and not (tmp_path / "new").exists()


def of_another_algorithm(path: Path) -> None:
    """Give a file an object identifier that belongs to no known algorithm."""
    begin, *body, end = path.read_bytes().strip().split(b"\n")
    der = base64.b64decode(b"".join(body)).replace(bytes.fromhex("2a8648ce3d0201"), bytes.fromhex("2a8648ce3d0279"))
    path.write_bytes(b"\n".join([begin, base64.b64encode(der), end, b""]))


def test_a_file_of_an_algorithm_that_nobody_knows(parties: Path) -> None:
    clients.add_client(folder=parties, name="anna")
    clients.revoke(folder=parties, name="anna")
    of_another_algorithm(parties / "driver/ca.pem")
    with pytest.raises(PipelineError, match=r"revoked\.pem: not usable"):
        Revocations(parties / "driver").require_valid(Peer(role="server0", name="server0", serial="1"))
    of_another_algorithm(parties / "ca/key.pem")
    with pytest.raises(BadInputError, match=r"ca/key\.pem: not usable"):
        clients.add_client(folder=parties, name="late")
