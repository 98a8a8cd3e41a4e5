"""Small files that a command reads once: what was digested is what is parsed, built and recorded.

A schema, or a module of a user's, is asked for in many places. Within `reading_once` the first reading answers them
all, in processes that are forked from this one too, so that a file that is swapped in between is not seen. A process
that is started on its own reads again, and checks what it finds against the digest that it was started with.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar

Found = TypeVar("Found")

_held: dict[Hashable, Any] | None = None


@contextlib.contextmanager
def reading_once() -> Iterator[None]:
    """Hold what is read within it; one inside of another holds nothing of its own."""
    global _held
    if _held is not None:
        yield
        return
    _held = {}
    try:
        yield
    finally:
        _held = None


def once(key: Hashable, read: Callable[[], Found]) -> Found:
    """Return what was read first under a key; read again where nothing is held. The caller must not change it.

    Args:
        key: names all that the result depends on beside the files.
        read: reads it; an error is not held.
    """
    if _held is None:
        return read()
    if key not in _held:
        _held[key] = read()
    found: Found = _held[key]
    return found


def held() -> bytes:
    """Return all that is held, for `hold` in a process of this user's that is started for a part of the work."""
    return pickle.dumps(_held or {})


def hold(content: bytes) -> None:
    """Take over, to the end of this process, what `held` gave."""
    global _held
    _held = pickle.loads(content)
