"""Mutual TLS between parties: no byte passes before both ends have shown the certificate of the expected party.

A party has one address. The protocol that a peer names in the handshake (ALPN) selects the service there, and each
protocol has its own list of roles. A benchmark may slow a tunnel down here, because not every kernel can do so.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path

from privacy_pipeline.encrypted.transport import frames, relay
from privacy_pipeline.encrypted.transport.certificates import PartyContext, client_context, tls_context
from privacy_pipeline.encrypted.transport.endpoints import Plain, Secured
from privacy_pipeline.encrypted.transport.identities import Peer, peer_in
from privacy_pipeline.encrypted.transport.joins import TunnelRecord, join, join_slowly, join_while_valid
from privacy_pipeline.encrypted.transport.limits import Connections, most_connections
from privacy_pipeline.encrypted.transport.pace import Pace, Speed
from privacy_pipeline.encrypted.transport.sockets import Connect, connected
from privacy_pipeline.errors import PipelineError

TENSORFLOW, SHARES = "tf", "desk"  # names on the wire, which parties of earlier versions send
_HANDSHAKE_SECONDS = 10.0
_DEAD_SECONDS = 20  # until a host that vanished counts as gone
_ACCEPTED = b"accepted\n"
_LONGEST_LINE = 200
_ACCEPT_PAUSE = 0.1  # seconds


@dataclass(frozen=True, kw_only=True)
class Route:
    """Where a peer gets to that names one protocol.

    Attributes:
        allowed: roles.
        connect: opens the local connection; called only after the peer's certificate was accepted.
        names_role: whether the local side first gets a line with the peer's role and the number of its certificate,
            instead of the peer one that it is accepted.
    """

    allowed: frozenset[str]
    connect: Connect
    names_role: bool = False


async def open_ingress(
    *, folder: Path, address: tuple[str, int], routes: Mapping[str, Route], record: TunnelRecord
) -> asyncio.Task[None]:
    """Listen with TLS on `address`; a peer gets to the route of the protocol it names, if its role may.

    A peer that is refused gets the reason, unless the process has as many connections as its limit on open files lets
    it.

    Args:
        folder: the party's own folder of `init_parties`.
        address: host and port, already bound when this returns.
        routes: by protocol name.
        record: gets the bytes and the refusals.

    Raises:
        PipelineError: the address cannot be bound, or the party's key is not usable.
    """
    context = tls_context(folder=folder, server=True)
    context.set_alpn_protocols(list(routes))
    try:
        listener = socket.create_server(address, backlog=128)
    except OSError as error:
        raise PipelineError(
            f"{address[0]}:{address[1]}: cannot be bound ({error.strerror})", fix="correct parties.yaml"
        ) from None
    listener.setblocking(False)

    connections = Connections()

    async def serve(sock: socket.socket) -> None:
        try:
            remote = await _secured(sock, context, server=True)
        except OSError as error:
            record.refuse(f"no mutual TLS: {error}")
            return
        with contextlib.ExitStack() as counted:
            try:
                peer, route = _admitted(remote, routes)
                context.revocations.require_valid(peer)
                counted.enter_context(connections.of(peer))
                local = await _routed(remote, route, peer)
            except PipelineError as error:
                await _turn_away(remote, error, record)
                return
            await join_while_valid(local, remote, record, peer=peer, revocations=context.revocations)

    return asyncio.create_task(_accept(listener, serve, record, most=most_connections()))


async def _turn_away(remote: Secured, error: PipelineError, record: TunnelRecord) -> None:
    record.refuse(error.message)
    # Each gets the reason in its own protocol.
    told = frames.refusal(error.message) if remote.protocol == SHARES else f"{error.message}\n".encode()
    remote.write(told)
    await relay.part(remote)


def _admitted(remote: Secured, routes: Mapping[str, Route]) -> tuple[Peer, Route]:
    """Return the peer and the route that it asks for, if its role may take it."""
    peer = peer_in(remote.certificate)
    route = routes.get(remote.protocol or "")
    if route is None:
        raise PipelineError("the peer names no protocol that is served here")
    if peer is None or peer.role not in route.allowed:
        raise PipelineError(not_served(peer.role if peer else None, route.allowed))
    return peer, route


async def _routed(remote: Secured, route: Route, peer: Peer) -> Plain:
    """Return the local side for an accepted peer."""
    try:
        local = Plain(await route.connect())
    except OSError as error:
        raise PipelineError(f"the party is down: {error}") from None
    if route.names_role:
        local.write(f"{peer.role} {peer.serial}\n".encode())
    else:
        remote.write(_ACCEPTED)
    return local


def not_served(role: str | None, allowed: frozenset[str]) -> str:
    """Return the message to a peer whose certificate is of another role than those that are served."""
    return f"the certificate is of {role or 'nobody'}, and is not of {', '.join(sorted(allowed))}"


async def open_egress(
    *,
    folder: Path,
    listener: socket.socket,
    address: tuple[str, int],
    expected: str,
    record: TunnelRecord,
    protocol: str = TENSORFLOW,
    speed: Speed | None = None,
) -> asyncio.Task[None]:
    """Carry each connection to `listener` to the party `expected` at `address`.

    Nothing is read from the local side before the peer's certificate was accepted, and the peer accepted ours.

    Args:
        folder: the party's own folder of `init_parties`.
        listener: bound and listening; closed at the end.
        address: of the peer.
        expected: its role.
        record: gets the bytes and the refusals.
        protocol: one whose route answers that it accepts.
        speed: None for as fast as the machine can.
    """
    context = client_context(folder=folder, protocol=protocol)
    pace = Pace(speed) if speed is not None else None
    listener.setblocking(False)

    async def serve(local_socket: socket.socket) -> None:
        with contextlib.ExitStack() as undo:
            undo.callback(local_socket.close)
            try:
                remote = await _dialled(context, address, expected)
            except PipelineError as error:
                record.refuse(error.message)
                return
            undo.pop_all()
        local = Plain(local_socket)
        await (join(local, remote, record) if pace is None else join_slowly(local, remote, record, pace))

    return asyncio.create_task(_accept(listener, serve, record))


async def probe(*, folder: Path, address: tuple[str, int], expected: str, protocol: str = TENSORFLOW) -> None:
    """Open a tunnel and close it again.

    Raises:
        PipelineError: the party is not reached, shows no or another's certificate, or refuses ours.
    """
    context = client_context(folder=folder, protocol=protocol)
    (await _dialled(context, address, expected)).socket.close()


async def _dialled(context: PartyContext, address: tuple[str, int], expected: str) -> Secured:
    where = f"{expected} at {address[0]}:{address[1]}"
    try:
        peer = await asyncio.wait_for(connected(address), _HANDSHAKE_SECONDS)
    except (OSError, asyncio.TimeoutError) as error:
        raise PipelineError(f"{where} is not reached: {str(error) or 'no answer'}", fix=f"start {expected}") from None
    try:
        remote = await _secured(peer, context, server=False)
    except OSError as error:
        raise PipelineError(f"{where}: no mutual TLS: {error}") from None
    with contextlib.ExitStack() as undo:
        undo.callback(remote.socket.close)
        found = peer_in(remote.certificate)
        if found is None or found.role != expected:
            raise PipelineError(f"{where}: certificate is not of {expected}")
        context.revocations.require_valid(found)
        answer = await _answer(remote)
        if answer != _ACCEPTED:
            said = answer.decode(errors="replace").strip()
            why = said or "it closed the connection (does it accept our certificate?)"
            raise PipelineError(f"{where} refuses: {why}")
        undo.pop_all()
    return remote


async def _answer(remote: Secured) -> bytes:
    """Return its first line: a peer that does not accept our certificate answers so only now (TLS 1.3)."""
    try:
        return await asyncio.wait_for(remote.line(_LONGEST_LINE), _HANDSHAKE_SECONDS)
    except (OSError, asyncio.TimeoutError) as error:
        return (str(error) or "no answer").encode()


async def _accept(
    listener: socket.socket,
    serve: Callable[[socket.socket], Coroutine[None, None, None]],
    record: TunnelRecord,
    *,
    most: int | None = None,
) -> None:
    """Serve each connection, of which there are never more than `most` at once."""
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()
    try:
        while True:
            try:
                peer, _ = await loop.sock_accept(listener)
            except ConnectionAbortedError:
                continue  # it left again
            except OSError as error:  # too many open files, say: others still come
                record.refuse(f"a connection cannot be accepted: {error}")
                await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            if most is not None and len(running) >= most:
                peer.close()
                record.refuse(f"there are {most} connections, the most for which there are files")
                continue
            task = asyncio.create_task(serve(peer))
            running.add(task)
            task.add_done_callback(running.discard)
    finally:
        listener.close()
        for task in running:
            task.cancel()


async def _secured(peer: socket.socket, context: ssl.SSLContext, *, server: bool) -> Secured:
    """Shake hands; raises OSError (SSLError is one) where the peer's certificate is not accepted."""
    with contextlib.ExitStack() as undo:
        undo.callback(peer.close)
        # Otherwise a host that vanished would keep calls waiting for ever.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _DEAD_SECONDS // 2)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_SECONDS * 1000)
        remote = Secured(peer, context, server=server)
        try:
            await asyncio.wait_for(remote.handshake(), _HANDSHAKE_SECONDS)
        except asyncio.TimeoutError:
            raise TimeoutError(f"no handshake within {_HANDSHAKE_SECONDS:g} s") from None
        undo.pop_all()
    return remote
