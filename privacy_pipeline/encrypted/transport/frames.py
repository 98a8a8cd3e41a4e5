"""Messages between parties: a JSON object, then bytes; both with their length, both limited. No pickle.

On the wire: length of the JSON (4 bytes, big-endian), the JSON, length of the payload (8 bytes), the payload.
"""

from __future__ import annotations

import asyncio
import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from privacy_pipeline.encrypted.transport.limits import HEADER_SECONDS, PATIENCE_SECONDS, SLOWEST
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.files.bounded import json_value

LARGEST_HEADER = 1 << 18  # bytes
_PIECE = 1 << 16  # bytes of a payload that are read at once
_JSON_LENGTH, _PAYLOAD_LENGTH = struct.Struct(">I"), struct.Struct(">Q")
_ID = re.compile(r"[0-9a-f]{32}")

Header = dict[str, Any]


class BadMessageError(PipelineError):
    """What a peer sent is not a message, or not one that is expected here."""


async def write(writer: asyncio.StreamWriter, header: Mapping[str, Any], parts: Sequence[bytes] = ()) -> None:
    """Send one message.

    Args:
        writer: to the peer.
        header: the JSON object.
        parts: the payload, in pieces that are sent one after the other.
    """
    writer.write(_start(header, sum(map(len, parts))))
    for part in parts:
        writer.write(part)
        await writer.drain()
    await writer.drain()


def refusal(why: str) -> bytes:
    """Return a whole message with the reason why nothing else is answered."""
    return _start({"error": why}, 0)


def _start(header: Mapping[str, Any], size: int) -> bytes:
    content = json.dumps(header).encode()
    return _JSON_LENGTH.pack(len(content)) + content + _PAYLOAD_LENGTH.pack(size)


async def read_header(reader: asyncio.StreamReader) -> tuple[Header, int]:
    """Return the JSON object of the next message and how many bytes follow, which are still to be read.

    Raises:
        EOFError: the peer closed the connection between two messages.
        BadMessageError: it is not a message.
        OSError: the connection broke.
    """
    start = await reader.read(1)
    if not start:
        raise EOFError
    try:
        return await asyncio.wait_for(_rest_of_header(reader, start), HEADER_SECONDS)
    except asyncio.TimeoutError:
        raise BadMessageError(f"a message's header does not come within {HEADER_SECONDS:g} s") from None


async def _rest_of_header(reader: asyncio.StreamReader, start: bytes) -> tuple[Header, int]:
    try:
        (length,) = _JSON_LENGTH.unpack(start + await reader.readexactly(_JSON_LENGTH.size - 1))
        if length > LARGEST_HEADER:
            raise BadMessageError(f"a message's header of {length} bytes exceeds {LARGEST_HEADER}")
        content = await reader.readexactly(length)
        (size,) = _PAYLOAD_LENGTH.unpack(await reader.readexactly(_PAYLOAD_LENGTH.size))
    except asyncio.IncompleteReadError:
        raise BadMessageError("a message is cut off") from None
    try:
        header = json_value(content)
    except (ValueError, RecursionError):
        raise BadMessageError("a message's header is not JSON") from None
    if not isinstance(header, dict):
        raise BadMessageError("a message's header is not a JSON object")
    return header, size


async def read_payload(
    reader: asyncio.StreamReader, size: int, *, expected: int, arrived: Callable[[int], None] = lambda size: None
) -> bytes:
    """Return the bytes of a message; read them only where their number is the expected one.

    Args:
        reader: of the peer.
        size: the number that the message states.
        expected: how many are due.
        arrived: gets the size of each piece before the next one is read; may refuse with BadMessageError.

    Raises:
        BadMessageError: the numbers differ, the message is cut off, or comes slower than `limits.SLOWEST`.
        OSError: the connection broke.
    """
    if size != expected:
        raise BadMessageError(f"a message has {size} bytes where {expected} are due")
    clock = asyncio.get_running_loop().time
    pieces, read, start = [], 0, clock()
    while read < size:
        patience = PATIENCE_SECONDS + read / SLOWEST - (clock() - start)
        try:
            piece = await asyncio.wait_for(reader.read(min(_PIECE, size - read)), patience)
        except asyncio.TimeoutError:
            raise BadMessageError(f"a message comes slower than {SLOWEST >> 10} KiB a second") from None
        if not piece:
            raise BadMessageError("a message is cut off")
        arrived(len(piece))
        pieces.append(piece)
        read += len(piece)
    return b"".join(pieces)


def text(header: Header, name: str) -> str:
    """Return a field that is a string.

    Raises:
        BadMessageError: it is missing or something else.
    """
    value = header.get(name)
    if not isinstance(value, str):
        raise BadMessageError(f"'{name}' is not a text")
    return value


def identifier(header: Header, name: str) -> str:
    """Return a field that is an id of 128 bits as 32 hexadecimal digits.

    Raises:
        BadMessageError: it is missing or something else.
    """
    value = text(header, name)
    if not _ID.fullmatch(value):
        raise BadMessageError(f"'{name}' is not an id of 32 hexadecimal digits")
    return value


def count(header: Header, name: str, *, largest: int) -> int:
    """Return a field that is an integer from 1 to `largest`.

    Raises:
        BadMessageError: it is missing or something else.
    """
    value = header.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise BadMessageError(f"'{name}' is not an integer from 1 to {largest}")
    return value
