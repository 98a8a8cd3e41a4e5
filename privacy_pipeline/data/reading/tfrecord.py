"""Count records of TFRecord files by their framing, without TensorFlow.

A record is: length (8 bytes, little-endian), masked CRC-32C of the length (4), data, masked CRC-32C of the data (4).
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from privacy_pipeline.data.files import unreadable
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import open_plain

_BLOCK = 1 << 20
LARGEST_RECORD = 1 << 28  # bytes: a small gzip file may hold much
_POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _table()


def masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C of `data`, rotated and offset as TFRecord stores it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def count_records(*, file: Path) -> int:
    """Return the number of records; the lengths' checksums are verified, the data's are not.

    Args:
        file: a TFRecord file, gzipped if its name ends in `.gz`.

    Raises:
        BadInputError: the file cannot be read, is cut off, or is not TFRecord.
    """
    return sum(1 for _ in records(file=file))


def records(*, file: Path) -> Iterator[bytes]:
    """Yield the records; the lengths' checksums are verified, the data's are not.

    Args:
        file: a TFRecord file, gzipped if its name ends in `.gz`.

    Raises:
        BadInputError: the file cannot be read, is cut off, or is not TFRecord.
    """
    try:
        with open_plain(file) as raw:
            yield from _read(gzip.GzipFile(fileobj=raw) if file.suffix == ".gz" else raw, file)
    except (gzip.BadGzipFile, zlib.error):
        raise BadInputError(f"{file}: is not a valid gzip file", fix="drop `.gz` if it is not compressed") from None
    except EOFError:
        raise BadInputError(f"{file}: the gzip file is cut off", fix="copy it again") from None
    except OSError as error:
        raise unreadable(file=file, error=error) from None


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _read(stream: _Readable, file: Path) -> Iterator[bytes]:
    count = 0
    while header := stream.read(12):
        if len(header) < 12:
            raise _cut_off(file, count)
        length, crc = struct.unpack("<QI", header)
        if masked_crc32c(header[:8]) != crc:
            raise BadInputError(
                f"{file}: record {count + 1} is corrupt (checksum of its length)",
                fix="check dataset.format, and that gzipped files end in .gz",
            )
        if length > LARGEST_RECORD:
            raise BadInputError(
                f"{file}: record {count + 1} has {length:,} bytes, more than {LARGEST_RECORD:,}",
                fix="split the record, or check the file",
            )
        yield _taken(stream, length + 4, file, count)[:-4]
        count += 1


def _taken(stream: _Readable, size: int, file: Path, count: int) -> bytes:
    """Read this many bytes, in blocks, so that a wrong length does not ask for more memory than the file has."""
    found = bytearray()
    while len(found) < size:
        block = stream.read(min(size - len(found), _BLOCK))
        if not block:
            raise _cut_off(file, count)
        found += block
    return bytes(found)


def _cut_off(file: Path, count: int) -> BadInputError:
    return BadInputError(f"{file}: record {count + 1} is cut off", fix="copy the file again")
