"""Which waiting requests make the next batch, and which bucket it takes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

BUCKETS = (1, 16, 128, 1024)  # rows for which a graph is kept


@dataclass(frozen=True, kw_only=True, eq=False)
class Pending:
    """A request whose shares wait at the servers.

    Attributes:
        identifier: of the request.
        rows: how many it has.
        owner: number of the client's certificate.
        done: gets None when the answer can be fetched, or why there is none.
    """

    identifier: str
    rows: int
    owner: str
    done: asyncio.Future[None] = field(repr=False)


def bucket_for(rows: int, buckets: Sequence[int]) -> int:
    """Return the smallest bucket that holds this number of rows.

    Raises:
        ValueError: none does.
    """
    return min(bucket for bucket in buckets if bucket >= rows)


class Queue:
    """Requests in the order in which they came.

    Args:
        largest: rows of the largest bucket.
    """

    def __init__(self, *, largest: int) -> None:
        self._largest = largest
        self._waiting: deque[Pending] = deque()
        self._came = asyncio.Event()

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return sum(one.rows for one in self._waiting)

    def rows_of(self, owner: str) -> int:
        """Return the number of waiting rows of one client."""
        return sum(one.rows for one in self._waiting if one.owner == owner)

    def __contains__(self, identifier: str) -> bool:
        """Whether a request with this id waits."""
        return any(one.identifier == identifier for one in self._waiting)

    def put(self, request: Pending) -> None:
        """Add a request of at most `largest` rows."""
        self._waiting.append(request)
        self._came.set()

    def drain(self) -> list[Pending]:
        """Take all requests that wait."""
        found = list(self._waiting)
        self._waiting.clear()
        self._came.clear()
        return found

    async def next_batch(self, *, window: Callable[[], float], patience: float) -> list[Pending]:
        """Return the requests of the next batch: the oldest, and those behind it as long as they fit.

        Args:
            window: seconds to wait for more, asked when the first one came, unless the largest bucket is full.
            patience: seconds after which it gives up, with no request.
        """
        try:
            await asyncio.wait_for(self._came.wait(), patience)
        except asyncio.TimeoutError:
            return []
        if self.rows < self._largest:
            await asyncio.sleep(window())
        taken: list[Pending] = []
        while self._waiting and sum(one.rows for one in taken) + self._waiting[0].rows <= self._largest:
            taken.append(self._waiting.popleft())
        if not self._waiting:
            self._came.clear()
        return taken
