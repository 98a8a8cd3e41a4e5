"""The share server of a party: where clients, the weights provider and the driver leave shares and fetch them.

It listens on a Unix socket behind the party's mutual TLS, whose ingress sends one line first, the role in the peer's
certificate and that certificate's number. After that the peer sends messages (`frames`), each answered by one. A bad
message is answered by an error, and the connection is closed.

    weights-provider   weights {sharing} + architecture file; weight {sharing, layer, role} + two shares; commit
    prediction-client  put {request, rows, model} + shares; fetch {request}; drop {request}
    driver             status; reset {rows}; batch {batch, bucket, requests}; finish {batch, boot, sharing};
                       discard {batch}

Each request has an id of 128 bits that its client draws; only a client that shows the same certificate and gives the
id can fetch the answer. The driver sets how many rows a request may have: as many as it has a graph for.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from privacy_pipeline.encrypted.model import shares
from privacy_pipeline.encrypted.server.held_shares import Sharing
from privacy_pipeline.encrypted.server.share_store import LARGEST_BUCKET, Store
from privacy_pipeline.encrypted.transport import frames
from privacy_pipeline.encrypted.transport.frames import BadMessageError, Header
from privacy_pipeline.errors import PipelineError

IDLE_SECONDS = 600.0  # without a message
_ROLE_SECONDS = 10.0
_LARGEST_ARCHITECTURE = 1 << 24  # bytes

Answer = tuple[Header, Sequence[bytes]]
_Op = Callable[["ShareServer", Header, "_Payload", str], Awaitable[Answer]]


async def serve(*, socket_path: Path, store: Path) -> asyncio.AbstractServer:
    """Open the share server of one party.

    Args:
        socket_path: Unix socket to listen on, in a folder that only the party can open.
        store: folder of the shares, made with rights for its owner alone.

    Raises:
        OSError: socket or folder cannot be made.
    """
    shares_of = ShareServer(Store(store))
    server = await asyncio.start_unix_server(shares_of.attend, str(socket_path))
    socket_path.chmod(0o600)
    return server


class ShareServer:
    """Answers peers over one store.

    Args:
        store: the server's.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._largest_rows: int | None = None  # of one request; None before a driver set it
        self._boot = secrets.token_hex(16)  # shows the driver that this party was restarted

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection: the line with the role, then messages until the peer leaves."""
        try:
            role, owner = await asyncio.wait_for(_peer(reader), _ROLE_SECONDS)
            while True:
                header, size = await asyncio.wait_for(frames.read_header(reader), IDLE_SECONDS)
                answer, parts = await self._answer(role, owner, header, _Payload(reader, size))
                await frames.write(writer, answer, parts)
        except PipelineError as error:
            await self._refuse(writer, error.message)
        except (EOFError, OSError, asyncio.TimeoutError):
            pass  # the peer left, or stays silent: nothing is owed to it
        finally:
            writer.close()

    async def _answer(self, role: str, owner: str, header: Header, payload: _Payload) -> Answer:
        name = frames.text(header, "op")
        if name not in _OPS.get(role, {}):
            raise BadMessageError(f"'{name[:20]}' is not for {role[:20] or 'nobody'}")
        if name not in _WITH_PAYLOAD:
            await payload.read(0)
        return await _OPS[role][name](self, header, payload, owner)

    async def _refuse(self, writer: asyncio.StreamWriter, why: str) -> None:
        try:
            await frames.write(writer, {"error": why})
        except OSError:
            return  # the peer left meanwhile

    async def _weights(self, header: Header, payload: _Payload, owner: str) -> Answer:
        sharing = frames.identifier(header, "sharing")
        architecture = await payload.read_at_most(_LARGEST_ARCHITECTURE)
        self._store.begin_weights(sharing=sharing, architecture=architecture)
        return {}, ()

    async def _weight(self, header: Header, payload: _Payload, owner: str) -> Answer:
        sharing, layer, role = (
            frames.identifier(header, "sharing"),
            frames.text(header, "layer"),
            frames.text(header, "role"),
        )
        size = self._store.weight_bytes(sharing=sharing, layer=layer, role=role)
        self._store.put_weight(sharing=sharing, layer=layer, role=role, content=await payload.read(size))
        return {}, ()

    async def _commit(self, header: Header, payload: _Payload, owner: str) -> Answer:
        self._store.commit_weights(sharing=frames.identifier(header, "sharing"))
        return {}, ()

    async def _put(self, header: Header, payload: _Payload, owner: str) -> Answer:
        request, rows = frames.identifier(header, "request"), frames.count(header, "rows", largest=LARGEST_BUCKET)
        sharing = self._sharing()
        if frames.text(header, "model") != sharing.digest:
            raise BadMessageError("another model is served")
        if self._largest_rows is None:
            raise BadMessageError("no driver serves yet")
        if rows > self._largest_rows:
            raise BadMessageError(f"a request has {rows} rows, and {self._largest_rows} are served at most")
        with self._store.taking(owner) as arrived:
            content = await payload.read(sharing.request_bytes(rows), arrived=arrived)
        self._store.put_request(request, sharing=sharing, rows=rows, content=content, owner=owner)
        return {}, ()

    async def _fetch(self, header: Header, payload: _Payload, owner: str) -> Answer:
        held = self._store.take(frames.identifier(header, "request"), owner=owner)
        if held is None:
            raise BadMessageError("there is no answer to such a request")
        return {"shape": list(held[0].shape)}, [shares.to_bytes(share) for share in held]

    async def _drop(self, header: Header, payload: _Payload, owner: str) -> Answer:
        self._store.drop(frames.identifier(header, "request"), owner=owner)
        return {}, ()

    async def _status(self, header: Header, payload: _Payload, owner: str) -> Answer:
        sharing = self._store.sharing
        held = {"sharing": sharing.identifier, "model": sharing.digest} if sharing else {"sharing": "", "model": ""}
        return {"boot": self._boot, **held}, ()

    async def _reset(self, header: Header, payload: _Payload, owner: str) -> Answer:
        self._largest_rows = frames.count(header, "rows", largest=LARGEST_BUCKET)
        self._store.reset()
        return {}, ()

    async def _batch(self, header: Header, payload: _Payload, owner: str) -> Answer:
        bucket = frames.count(header, "bucket", largest=LARGEST_BUCKET)
        batch = frames.identifier(header, "batch")
        return {"missing": self._store.form(batch, bucket=bucket, requests=_requests(header))}, ()

    async def _finish(self, header: Header, payload: _Payload, owner: str) -> Answer:
        """Release answers, if the driver's graph was built for this share server and its sharing."""
        expected = frames.identifier(header, "boot"), frames.identifier(header, "sharing")
        if expected != (self._boot, self._sharing().identifier):
            raise BadMessageError("it was restarted, or got other weights")
        self._store.finish(frames.identifier(header, "batch"))
        return {}, ()

    async def _discard(self, header: Header, payload: _Payload, owner: str) -> Answer:
        self._store.discard(frames.identifier(header, "batch"))
        return {}, ()

    def _sharing(self) -> Sharing:
        if self._store.sharing is None:
            raise BadMessageError("there are no weights yet")
        return self._store.sharing


class _Payload:
    """The bytes of a message, not read before it is known how many there should be."""

    def __init__(self, reader: asyncio.StreamReader, size: int) -> None:
        self._reader, self._size = reader, size

    async def read(self, expected: int, *, arrived: Callable[[int], None] = lambda size: None) -> bytes:
        return await frames.read_payload(self._reader, self._size, expected=expected, arrived=arrived)

    async def read_at_most(self, largest: int) -> bytes:
        return await self.read(min(self._size, largest))


async def _peer(reader: asyncio.StreamReader) -> tuple[str, str]:
    """Return the peer's role, and the number of its certificate."""
    try:
        line = (await reader.readline()).decode("ascii", "replace")
    except ValueError:  # longer than the stream holds
        raise BadMessageError("the first line is not a role") from None
    role, _, owner = line.strip().partition(" ")
    return role, owner


def _requests(header: Header) -> list[tuple[str, int]]:
    listed: Any = header.get("requests")
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise BadMessageError("'requests' is not a list of requests")
    return [(frames.identifier(one, "request"), frames.count(one, "rows", largest=LARGEST_BUCKET)) for one in listed]


_OPS: dict[str, dict[str, _Op]] = {
    "weights-provider": {"weights": ShareServer._weights, "weight": ShareServer._weight, "commit": ShareServer._commit},
    "prediction-client": {"put": ShareServer._put, "fetch": ShareServer._fetch, "drop": ShareServer._drop},
    "driver": {
        "status": ShareServer._status,
        "reset": ShareServer._reset,
        "batch": ShareServer._batch,
        "finish": ShareServer._finish,
        "discard": ShareServer._discard,
    },
}
_WITH_PAYLOAD = frozenset({"weights", "weight", "put"})
