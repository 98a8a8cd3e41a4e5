"""Work on pieces of a large table in several processes, which read what they need by fork and give back arrays."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from privacy_pipeline.processes.die_with_parent import die_with_parent

Given = TypeVar("Given")
Found = TypeVar("Found")
_function: Callable[[Any], Any] | None = None  # of a process of a pool


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def side_by_side(
    function: Callable[[Given], Found], *, processes: int
) -> Iterator[Callable[[Sequence[Given]], list[Found]]]:
    """Run a function of one piece as one of several, in their order.

    Args:
        function: of one piece; it need not be picklable, its pieces and results have to be.
        processes: how many; with 1 all of it is done in this process.
    """
    if processes == 1:
        yield lambda pieces: [function(piece) for piece in pieces]
        return
    context = multiprocessing.get_context("fork")
    with context.Pool(processes, initializer=_begin, initargs=(function, os.getpid())) as pool:
        yield lambda pieces: pool.map(_call, pieces, chunksize=1)


def _begin(function: Callable[[Any], Any], parent: int) -> None:
    global _function
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool
    _function = function


def _call(piece: Any) -> Any:
    assert _function is not None
    return _function(piece)
