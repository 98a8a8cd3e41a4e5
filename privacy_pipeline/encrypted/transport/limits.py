"""How much one client, and all peers together, may take of a party: connections, memory, rows that wait, time.

A client is known by the certificate that it shows. Each may take a quarter of what there is, so that no client shuts
the others out.
"""

from __future__ import annotations

import contextlib
import resource
from collections import Counter
from collections.abc import Iterator

from privacy_pipeline.encrypted.transport.identities import CLIENT, Peer
from privacy_pipeline.errors import PipelineError

SHARE = 4  # a client may take one part in this number
CONNECTIONS_OF_A_CLIENT = 64
LARGEST_WAITING = 1 << 30  # bytes of requests and answers together
KEEPING_BYTES = 1 << 12  # that a request or an answer takes besides its shares
SLOWEST = 1 << 16  # bytes a second of a payload
PATIENCE_SECONDS = 10.0  # before a payload has to be that fast
HEADER_SECONDS = 10.0  # from its first byte on
_FILES_KEPT = 128  # for all but connections
_FILES_A_CONNECTION = 3  # the peer, the local side, and the local side's other end


def most_connections() -> int:
    """Return the most connections that the process may hold, by its limit of open files, raised as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(1, (hard - _FILES_KEPT) // _FILES_A_CONNECTION)


class Connections:
    """Open connections, by the certificate of the peer."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @contextlib.contextmanager
    def of(self, peer: Peer) -> Iterator[None]:
        """Count one connection as long as it lasts.

        Raises:
            PipelineError: the client has as many as it may.
        """
        if peer.role == CLIENT and self._open[peer.serial] >= CONNECTIONS_OF_A_CLIENT:
            raise PipelineError(
                f"{peer.name} has {CONNECTIONS_OF_A_CLIENT} connections already, the most that are served"
            )
        self._open[peer.serial] += 1
        try:
            yield
        finally:
            self._open[peer.serial] -= 1
            if not self._open[peer.serial]:
                del self._open[peer.serial]
