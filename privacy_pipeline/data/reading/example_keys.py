"""The key of a privacy unit, and the cells of a row, inside a serialized tf.train.Example, read without TensorFlow.

Wire format (protobuf encoding; tensorflow/core/example/{example,feature}.proto): Example { 1: Features { 1: map entry
{ 1: name, 2: Feature } } }, Feature { 1: BytesList, 2: FloatList, 3: Int64List }, each list { 1: values }.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_BYTES, _FLOAT, _INT64 = 1, 2, 3
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class KeyProblem(Exception):  # noqa: N818 - what is wrong with one record; the reader of the file names it
    """A record that has no key as ExampleGen reads one."""


def key_of(record: bytes, key: str) -> int | str:
    """Return the one value of a feature.

    Args:
        record: a serialized tf.train.Example.
        key: name of the feature.

    Raises:
        KeyProblem: the record is not an Example, or the feature is missing, has not one value, or is neither an integer
            nor a text.
    """
    name = key.encode("utf-8")
    try:
        feature = _feature(record, name)
        if feature is None:
            raise KeyProblem(f"has no '{key}': the row has no privacy unit")
        values = [value for kind, content in _fields(feature) for value in _values(kind, content, key)]
    except (IndexError, TypeError) as error:
        raise KeyProblem("is not a tf.train.Example") from error
    if len(values) != 1:
        raise KeyProblem(f"has {len(values)} values of '{key}': a row belongs to one privacy unit")
    value = values[0]
    if isinstance(value, int):
        return value
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise KeyProblem(f"has a '{key}' that is not UTF-8 text") from error
    if not text:
        raise KeyProblem(f"has an empty '{key}': the row has no privacy unit")
    return text


def cells_of(record: bytes) -> list[str] | None:
    """Return all values of all features as texts, in any order; None where the record is not a tf.train.Example."""
    try:
        features = dict(_features(record)).values()
        return [text for feature in features for kind, content in _fields(feature) for text in _texts(kind, content)]
    except (KeyProblem, IndexError, TypeError, struct.error):
        return None


def _texts(kind: int, content: bytes | int) -> Iterator[str]:
    if kind == _FLOAT:
        for _, value in _fields(_content(content)):
            yield from (repr(number) for (number,) in struct.iter_unpack("<f", _content(value)))
        return
    for value in _values(kind, content, ""):
        yield str(value) if isinstance(value, int) else value.decode("utf-8", "surrogateescape")


def _feature(record: bytes, name: bytes) -> bytes | None:
    return dict(_features(record)).get(name)


def _features(record: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and content of each feature; of several of one name the last one counts, as in protobuf's maps."""
    for number, features in _fields(record):
        for inner, entry in _fields(_content(features)) if number == 1 else ():
            parts = dict(_fields(_content(entry))) if inner == 1 else {}
            yield _content(parts.get(1, b"")), _content(parts.get(2, b""))


def _values(kind: int, content: bytes | int, key: str) -> Iterator[bytes | int]:
    if kind == _FLOAT:
        raise KeyProblem(f"has a '{key}' of floating point, which names no privacy unit")
    for number, value in _fields(_content(content)):
        if number != 1:
            raise KeyProblem("is not a tf.train.Example")
        if kind == _BYTES:
            yield _content(value)
        elif kind == _INT64 and isinstance(value, int):
            yield _signed(value)
        elif kind == _INT64:
            at = 0
            while at < len(_content(value)):
                one, at = _varint(_content(value), at)
                yield _signed(one)


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield number and content of each field: bytes, or the value of a varint.

    Raises:
        IndexError: the message is cut off, or is not a message.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        sizes = {_FIXED64: 8, _FIXED32: 4}
        size, at = _varint(message, at) if kind == _LENGTH else (sizes.get(kind, len(message) + 1), at)
        if at + size > len(message):
            raise IndexError("cut off")
        yield tag >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
        shift += 7
        if shift > 63:
            raise IndexError("not a varint")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _content(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise TypeError("a varint where bytes were due")
    return value
