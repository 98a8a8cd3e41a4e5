"""Mutual TLS between parties: no byte passes before both ends have shown the certificate of the expected party."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from privacy_pipeline.encrypted.certificates import role_uri
from privacy_pipeline.errors import PipelineError

_CHUNK = 1 << 16  # bytes
_HANDSHAKE_SECONDS = 10.0
_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class TunnelRecord:
    """What passed: payload bytes each way, and why peers were refused."""

    bytes_in: int = 0
    bytes_out: int = 0
    refused: list[str] = field(default_factory=list)


def tls_context(*, folder: Path, server: bool) -> ssl.SSLContext:
    """TLS 1.3 that presents the party's certificate and demands one of the same authority from the peer.

    Raises:
        PipelineError: a file is missing or unreadable.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the role in the certificate is checked instead: hosts may move
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
        context.load_verify_locations(folder / "ca.pem")
    except OSError as error:
        raise PipelineError(
            f"{folder}: key or certificate not usable ({error})", fix="privacy-pipeline encrypted init-parties FOLDER"
        ) from None
    return context


async def open_ingress(
    *, folder: Path, address: tuple[str, int], target: Path, allowed: frozenset[str], record: TunnelRecord
) -> asyncio.Task[None]:
    """Listens with TLS on `address`; a peer whose role is in `allowed` reaches the Unix socket `target`.

    Args:
        folder: the party's own folder of `init_parties`.
        address: host and port, already bound when this returns.
        target: opened only after the peer's certificate was accepted.
        allowed: names of parties.
        record: gets the bytes and the refusals.
    """
    context = tls_context(folder=folder, server=True)
    listener = socket.create_server(address)
    listener.setblocking(False)

    async def serve(peer: socket.socket) -> None:
        try:
            remote = await _secured(peer, context, server=True)
        except (OSError, asyncio.TimeoutError) as error:
            record.refused.append(f"no mutual TLS: {error}")
            peer.close()
            return
        if not _has_role(remote[1], allowed):
            record.refused.append(f"certificate is not of {', '.join(sorted(allowed))}")
            remote[1].transport.abort()
            return
        try:
            local = await asyncio.open_unix_connection(str(target))
        except OSError as error:
            record.refused.append(f"party is down: {error}")
            remote[1].transport.abort()
            return
        await _join(local=local, remote=remote, record=record)

    return asyncio.create_task(_accept(listener, serve))


async def open_egress(
    *, folder: Path, source: Path, address: tuple[str, int], expected: str, record: TunnelRecord
) -> asyncio.Task[None]:
    """Listens on the Unix socket `source`; carries each connection to the party `expected` at `address`.

    Nothing is read from the local side before the peer's certificate was accepted.
    """
    context = tls_context(folder=folder, server=False)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(source))
    source.chmod(0o600)
    listener.listen()
    listener.setblocking(False)

    async def serve(local_socket: socket.socket) -> None:
        try:
            remote = await _secured(await _connected(address), context, server=False)
        except (OSError, asyncio.TimeoutError) as error:
            record.refused.append(f"{expected}: no mutual TLS: {error}")
            local_socket.close()
            return
        if not _has_role(remote[1], frozenset({expected})):
            record.refused.append(f"certificate is not of {expected}")
            remote[1].transport.abort()
            local_socket.close()
            return
        local = await asyncio.open_unix_connection(sock=local_socket)
        await _join(local=local, remote=remote, record=record)

    return asyncio.create_task(_accept(listener, serve))


async def _accept(listener: socket.socket, serve: Callable[[socket.socket], Coroutine[None, None, None]]) -> None:
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()
    try:
        while True:
            peer, _ = await loop.sock_accept(listener)
            peer.setblocking(False)
            task = asyncio.create_task(serve(peer))
            running.add(task)
            task.add_done_callback(running.discard)
    finally:
        listener.close()
        for task in running:
            task.cancel()


async def _connected(address: tuple[str, int]) -> socket.socket:
    outward = socket.socket(socket.AF_INET)
    outward.setblocking(False)
    try:
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(outward, address), _HANDSHAKE_SECONDS)
    except (OSError, asyncio.TimeoutError):
        outward.close()
        raise
    return outward


async def _secured(peer: socket.socket, context: ssl.SSLContext, *, server: bool) -> _Stream:
    """The TLS handshake; raises OSError (SSLError is one) where the peer's certificate is not accepted."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport: asyncio.BaseTransport
    if server:
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, peer, ssl=context, ssl_handshake_timeout=_HANDSHAKE_SECONDS
        )
    else:
        transport, _ = await loop.create_connection(
            lambda: protocol, sock=peer, ssl=context, server_hostname="", ssl_handshake_timeout=_HANDSHAKE_SECONDS
        )
    return reader, asyncio.StreamWriter(cast(asyncio.WriteTransport, transport), protocol, reader, loop)


def _has_role(writer: asyncio.StreamWriter, allowed: frozenset[str]) -> bool:
    names = writer.get_extra_info("peercert", {}).get("subjectAltName", ())
    return any(("URI", role_uri(party)) in names for party in allowed)


async def _join(*, local: _Stream, remote: _Stream, record: TunnelRecord) -> None:
    """Copies both ways until either side ends; then both end."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, inward: bool) -> None:
        while content := await reader.read(_CHUNK):
            record.bytes_in += len(content) if inward else 0
            record.bytes_out += 0 if inward else len(content)
            writer.write(content)
            await writer.drain()

    both = [asyncio.create_task(copy(local[0], remote[1], False)), asyncio.create_task(copy(remote[0], local[1], True))]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in both:
            task.cancel()
        # A connection that broke is an end like any other here: the party at each end sees its socket close.
        await asyncio.gather(*both, return_exceptions=True)
        local[1].close()
        remote[1].close()
