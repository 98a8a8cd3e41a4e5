"""Encode texts that ML Metadata's database cannot hold, and decode them when they are read.

ML Metadata 1.15 quotes a text with a backslash twice for PostgreSQL, which then parses the rest of it as SQL; and a
text in a database ends at a NUL. The other databases hold backslashes. Only this module encodes and decodes.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# `~` marks an encoded character, as in RFC 6901; a text without any of the three is stored unchanged.
_SPELLED = {"~": "~0", "\\": "~1", "\0": "~2"}
_READ = {spelled: character for character, spelled in _SPELLED.items()}
_CHARACTERS, _SPELLINGS = re.compile(r"[~\\\0]"), re.compile("~[012]")


def spelled(text: str) -> str:
    """Return the text without a backslash or a NUL."""
    return _CHARACTERS.sub(lambda found: _SPELLED[found[0]], text)


def read(text: str) -> str:
    """Return the original text of what `spelled` returned."""
    return _SPELLINGS.sub(lambda found: _READ[found[0]], text)


def store_of(connection: Any) -> Any:
    """Return the `MetadataStore` of a connection; no other function of the framework opens one.

    Args:
        connection: an `ml_metadata` ConnectionConfig.

    Raises:
        RuntimeError: raised by `ml_metadata`; the database cannot be reached or used.
    """
    from ml_metadata.metadata_store import metadata_store

    if connection.WhichOneof("config") != "postgresql":
        return metadata_store.MetadataStore(connection)

    class Spelling(metadata_store.MetadataStore):
        """Store that passes each call through `_call`."""

        def __init__(self, config: Any) -> None:
            with _client_held_back():
                super().__init__(config)

        def _call(self, method_name: str, request: Any, response: Any, extra_options: Any = None) -> Any:
            stored = type(request).FromString(request.SerializeToString())
            change_texts(stored, spelled)
            answer = super()._call(method_name, stored, response, extra_options)
            change_texts(response, read)
            return answer

    return Spelling(connection)


@contextmanager
def _client_held_back() -> Iterator[None]:
    """Keep the output of PostgreSQL's client off standard error, and add it to the error, which has no details.

    Raises:
        RuntimeError: the block's error, with the output of the client.
    """
    with tempfile.TemporaryFile() as printed:
        kept = os.dup(2)
        os.dup2(printed.fileno(), 2)
        try:
            yield
        except RuntimeError as error:
            printed.seek(0)
            lines = printed.read().decode(errors="replace").splitlines()
            said = [line.strip() for line in lines if "failed:" in line or "FATAL:" in line]
            raise RuntimeError(said[0] if said else str(error)) from error
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def change_texts(message: Any, change: Callable[[str], str]) -> None:
    """Change each text of a protobuf message in place: fields, list items, keys and values of maps.

    Messages of protobuf itself are left alone: ML Metadata stores those as bytes, in base64.

    Args:
        message: any message.
        change: maps a text to its new value.
    """
    if message.DESCRIPTOR.full_name.startswith("google.protobuf."):
        return
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _change_map(value, field.message_type.fields_by_name["value"], change)
        elif field.type == field.TYPE_STRING:
            _change_strings(message, field, value, change)
        elif field.type == field.TYPE_MESSAGE:
            for part in value if field.label == field.LABEL_REPEATED else [value]:
                change_texts(part, change)


def _change_strings(message: Any, field: Any, value: Any, change: Callable[[str], str]) -> None:
    if field.label == field.LABEL_REPEATED:
        value[:] = [change(text) for text in value]
    else:
        setattr(message, field.name, change(value))


def _change_map(found: Any, of_value: Any, change: Callable[[str], str]) -> None:
    # Remove all keys before inserting the first: a new key may equal another one's old key.
    entries = []
    for key, value in found.items():
        if of_value.type == of_value.TYPE_MESSAGE:
            value = type(value).FromString(value.SerializeToString())
            change_texts(value, change)
        elif isinstance(value, str):
            value = change(value)
        entries.append((change(key) if isinstance(key, str) else key, value))
    found.clear()
    for key, value in entries:
        if of_value.type == of_value.TYPE_MESSAGE:
            found[key].CopyFrom(value)
        else:
            found[key] = value
