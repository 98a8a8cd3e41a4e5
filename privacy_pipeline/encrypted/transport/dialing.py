"""Connections to the share server of another party: mutual TLS, the expected role, a time limit for everything."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from privacy_pipeline.config.source import read_document
from privacy_pipeline.encrypted.transport import frames
from privacy_pipeline.encrypted.transport.certificates import PartyContext, tls_context
from privacy_pipeline.encrypted.transport.identities import PARTIES, Peer, peer_in
from privacy_pipeline.encrypted.transport.limits import Connections
from privacy_pipeline.encrypted.transport.tunnel import SHARES, not_served
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.files.file_rights import refuse_if_others_may_change
from privacy_pipeline.text.typed import typed

CONNECT_SECONDS = 10.0
_LARGEST_ANSWER = 1 << 31  # bytes

Address = tuple[str, int]
_Result = TypeVar("_Result")


class PartyError(PipelineError):
    """A party is at fault: what it answers is of no use.

    Args:
        party: the party at fault.
        why: what it answered, or what happened instead.
    """

    def __init__(self, party: str, why: str) -> None:
        super().__init__(f"{party} {why}", fix=f"see that {party} runs, then try again")
        self.party = party


class SilentError(PartyError):
    """A party does not answer."""


class RefusedError(PartyError):
    """A party answered that it does not do what it was asked."""


def addresses(folder: Path) -> dict[str, Address]:
    """Return the host and port of every party, from `parties.yaml`.

    Raises:
        BadInputError: the file is missing or broken, or lacks a party.
    """
    path = folder / "parties.yaml"
    if not path.exists():
        raise BadInputError(f"{path}: no such file", fix=typed("encrypted", "init-parties", folder))
    refuse_if_others_may_change(path)
    content, found = read_document(path=path).data, {}
    for party in PARTIES:
        value = content.get(party)
        host, _, port = (value if isinstance(value, str) else "").rpartition(":")
        if not _is_host(host) or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 1 << 16:
            raise BadInputError(f"{path}: {party}: no address `host:port`", fix=f"write `{party}: host:port`")
        found[party] = (host, int(port))
    return found


def _is_host(host: str) -> bool:
    """Whether the resolver takes this name: it encodes names as IDNA, and does not raise OSError where that fails."""
    try:
        return bool(host.encode("idna")) and not re.search(r"\s", host)
    except UnicodeError:
        return False


@dataclass(frozen=True, kw_only=True)
class Link:
    """An open connection to a party."""

    party: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(
        self, header: Mapping[str, Any], parts: Sequence[bytes] = (), *, seconds: float
    ) -> tuple[frames.Header, bytes]:
        """Send one message and wait for the answer.

        Args:
            header: the message.
            parts: its payload.
            seconds: limit for both.

        Raises:
            RefusedError: the party answered with an error.
            SilentError: it did not answer in time, or broke off.
        """
        return await _within(self._ask(header, parts), self.party, seconds=seconds)

    async def _ask(self, header: Mapping[str, Any], parts: Sequence[bytes]) -> tuple[frames.Header, bytes]:
        # Both at once: a party that refuses answers with the reason and reads no further.
        sending = asyncio.ensure_future(frames.write(self.writer, header, parts))
        try:
            answer, size = await frames.read_header(self.reader)
            if "error" in answer:
                raise RefusedError(self.party, f"refuses: {answer['error']}")
            await sending
            content = await frames.read_payload(self.reader, size, expected=min(size, _LARGEST_ANSWER))
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        return answer, content


@contextlib.asynccontextmanager
async def dial(*, context: PartyContext, address: Address, expected: str) -> AsyncIterator[Link]:
    """Open a connection to the share server of the party `expected`; close it at the end.

    Args:
        context: one's own, `tunnel.client_context` for a share server; made once for many connections, because to
            read keys takes longer than to use them.
        address: of the party.
        expected: the party; no byte is sent before its certificate was accepted.

    Raises:
        SilentError: it cannot be reached.
        PartyError: somebody else answers, or its certificate is revoked.
    """
    opening = asyncio.open_connection(*address, ssl=context, server_hostname="", ssl_handshake_timeout=CONNECT_SECONDS)
    reader, writer = await _within(opening, expected, seconds=CONNECT_SECONDS)
    try:
        peer = peer_of(writer)
        if peer is None or peer.role != expected:
            raise PartyError(expected, "shows the certificate of somebody else")
        context.revocations.require_valid(peer)
        yield Link(party=expected, reader=reader, writer=writer)
    finally:
        # The caller has the answer or gives up, so nothing more is due. A polite close could wait for ever.
        writer.transport.abort()


async def listen(
    *, folder: Path, address: Address, allowed: frozenset[str], serve: Any, handshake_seconds: float = CONNECT_SECONDS
) -> asyncio.AbstractServer:
    """Listen with mutual TLS; `serve(reader, writer, peer)` gets messages of peers whose role is in `allowed`.

    A peer with another role, with a revoked certificate or with too many connections gets the reason in a frame.

    Raises:
        PipelineError: the address cannot be bound.
    """
    context = tls_context(folder=folder, server=True)
    context.set_alpn_protocols([SHARES])

    connections = Connections()

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            peer = peer_of(writer)
            if peer is None or peer.role not in allowed:
                raise PipelineError(not_served(peer.role if peer else None, allowed))
            context.revocations.require_valid(peer)
            with connections.of(peer):
                await serve(reader, writer, peer)
        except PipelineError as error:
            with contextlib.suppress(OSError):  # it may have left
                writer.write(frames.refusal(error.message))
                await writer.drain()
        finally:
            writer.close()

    try:
        return await asyncio.start_server(
            guarded, *address, ssl=context, ssl_handshake_timeout=handshake_seconds, reuse_address=True
        )
    except OSError as error:
        raise PipelineError(
            f"{address[0]}:{address[1]}: cannot be bound ({error.strerror})", fix="correct parties.yaml"
        ) from None


def peer_of(writer: asyncio.StreamWriter) -> Peer | None:
    """Return the peer that its certificate names; None for nobody."""
    return peer_in(writer.get_extra_info("peercert") or {})


async def _within(work: Awaitable[_Result], party: str, *, seconds: float) -> _Result:
    try:
        return await asyncio.wait_for(work, seconds)
    except asyncio.TimeoutError:
        raise SilentError(party, f"does not answer within {seconds:g} s") from None
    except ssl.SSLCertVerificationError as error:
        raise SilentError(party, f"shows a certificate that is not accepted: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise SilentError(party, f"is not reached by mutual TLS ({error.reason or error})") from None
    except EOFError:
        raise SilentError(party, "closed the connection") from None
    except OSError as error:
        raise SilentError(party, f"is not reached ({error.strerror or error})") from None
    except frames.BadMessageError as error:
        raise PartyError(party, f"sent something that is not an answer ({error.message})") from None
