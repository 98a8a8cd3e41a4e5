"""The two ends of a tunnel, joined: what passes is counted until either side ends, or a certificate is revoked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from privacy_pipeline.encrypted.transport import relay
from privacy_pipeline.encrypted.transport.endpoints import Plain, Secured
from privacy_pipeline.encrypted.transport.identities import Peer, Revocations
from privacy_pipeline.encrypted.transport.pace import Pace
from privacy_pipeline.errors import PipelineError

_KEPT_REFUSALS = 100
_REVOKED_SECONDS = 2.0  # between looks at the list of what is revoked, while a connection is open


@dataclass
class TunnelRecord:
    """What passed: payload bytes each way, and why peers were refused (the latest hundred)."""

    bytes_in: int = 0
    bytes_out: int = 0
    refused: list[str] = field(default_factory=list)
    report: Callable[[str], None] = lambda reason: None

    def refuse(self, reason: str) -> None:
        """Keep a reason and report it."""
        self.refused[:] = [*self.refused[1 - _KEPT_REFUSALS :], reason]
        self.report(reason)


async def join(local: Plain, remote: Secured, record: TunnelRecord) -> None:
    """Carry both ways until either side ends; then end both."""

    def count_out(size: int) -> None:
        record.bytes_out += size

    def count_in(size: int) -> None:
        record.bytes_in += size

    await relay.carry(local, remote, to_other=count_out, to_one=count_in)
    if remote.trouble:
        record.refuse(remote.trouble)


async def join_while_valid(
    local: Plain, remote: Secured, record: TunnelRecord, *, peer: Peer, revocations: Revocations
) -> None:
    """Carry it, until the peer's certificate is revoked at the latest."""
    joined = asyncio.create_task(join(local, remote, record))
    try:
        while not (await asyncio.wait([joined], timeout=_REVOKED_SECONDS))[0]:
            revocations.require_valid(peer)
        await joined
    except PipelineError as error:
        record.refuse(error.message)
    finally:
        joined.cancel()
        await asyncio.gather(joined, return_exceptions=True)


async def join_slowly(local: Plain, remote: Secured, record: TunnelRecord, pace: Pace) -> None:
    """Carry it, with what slows it down between the local side and the tunnel."""
    ours, theirs = socket.socketpair()
    near, far = [await asyncio.open_connection(sock=one) for one in (local.socket, theirs)]
    pacing = asyncio.create_task(pace.join(near, far))
    try:
        await join(Plain(ours), remote, record)
        await pacing  # what came is still under way
    finally:
        pacing.cancel()
