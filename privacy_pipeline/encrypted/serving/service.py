"""The service of private prediction: keeps servers and driver ready, puts requests together, and recovers.

It runs in the driver's role and holds no share. Clients leave their shares at the servers, then ask here for the run;
each gets an answer within a bounded time: either that its shares of the answer wait, or why there are none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from privacy_pipeline.encrypted.model.threat_model import of_parties
from privacy_pipeline.encrypted.server.share_store import LARGEST_BUCKET
from privacy_pipeline.encrypted.serving.coalescing import Pending, Queue, bucket_for
from privacy_pipeline.encrypted.serving.driver_process import DriverError
from privacy_pipeline.encrypted.serving.local_parties import DoesNotStartError
from privacy_pipeline.encrypted.serving.ready_cluster import ReadyCluster, Setting, make_ready
from privacy_pipeline.encrypted.transport import frames
from privacy_pipeline.encrypted.transport.dialing import SilentError, listen
from privacy_pipeline.encrypted.transport.frames import BadMessageError, Header
from privacy_pipeline.encrypted.transport.identities import Peer, Revocations
from privacy_pipeline.encrypted.transport.limits import SHARE
from privacy_pipeline.encrypted.worker.parties import SERVERS
from privacy_pipeline.errors import PipelineError

_WINDOW_SECONDS = 0.003  # requests that come together run together, if there is more than one client
_CHECK_SECONDS = 2.0  # between looks at idle parties
_IDLE_SECONDS = 600.0  # a connection without a message
_QUEUE_BATCHES = 64  # full ones that may wait
_FIRST_ATTEMPTS = 3  # on this machine, before the service reports that the parties do not come up
_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)  # seconds before the next attempt to recover


class Supervisor(Protocol):
    """Starts parties on this machine: `local_parties.LocalParties`."""

    async def ensure(self) -> None:
        """Start those that do not run."""
        ...

    def came_up(self) -> None:
        """Note that all answered once."""
        ...

    async def replace(self, party: str | None) -> None:
        """Restart a party that does not answer; None: it is not known which, so restart all three servers."""
        ...


class Service:
    """Answers clients until it is cancelled.

    Args:
        setting: parties, model, buckets, limits.
        supervisor: restarts parties of this machine; None where they live on hosts of their own.
        report: gets what is being done, and what went wrong, in one line each.
        recovers: whether it starts over when a party fails; else that ends it. Parties of this machine have time to
            come up either way, those of other hosts must already run.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        supervisor: Supervisor | None,
        report: Callable[[str], None],
        recovers: bool = True,
    ) -> None:
        self._setting, self._supervisor, self._tell = setting, supervisor, report
        self._recovers = recovers
        self._told: set[str] = set()  # since it was ready
        self._largest = max(setting.buckets)
        self._revocations = Revocations(setting.folder)
        self._queue = Queue(largest=self._largest)
        self._trouble = "the service is starting"
        hosts = {name: setting.addresses[name][0] for name in SERVERS}
        self._protection = of_parties(local=supervisor is not None, hosts=hosts).protection
        self._running: frozenset[str] = frozenset()
        self._clients = 0
        self.batches: list[tuple[int, int]] = []  # bucket and requests of the latest batches

    async def run(self) -> None:
        """Serve until it is cancelled.

        Raises:
            PipelineError: its address cannot be bound, or parties of this machine never came up; where it does not
                recover, also what a party failed of.
        """
        address = self._setting.addresses["driver"]
        clients = frozenset({"prediction-client"})
        server = await listen(folder=self._setting.folder, address=address, allowed=clients, serve=self._attend)
        try:
            await self._keep_serving()
        finally:
            server.close()
            self._fail("the service is ending")

    async def _keep_serving(self) -> None:
        attempts, came_up = 0, False
        while True:
            try:
                cluster = await self._make_ready()
            except PipelineError as error:
                attempts += not (isinstance(error, SilentError) and not came_up)
                if self._supervisor is None and not self._recovers:
                    raise
                never = self._supervisor is not None and not came_up
                if never and (isinstance(error, DoesNotStartError) or attempts == _FIRST_ATTEMPTS):
                    raise
                await self._recover_from(error, attempts=attempts)
                await asyncio.sleep(_PAUSES[min(attempts, len(_PAUSES) - 1)])
                continue
            attempts, came_up = 0, True
            try:
                self._trouble, self._told = "", set()
                self._tell("ready")
                await self._work(cluster)
            except PipelineError as error:
                if not self._recovers:
                    raise
                await self._recover_from(error, attempts=0)
            finally:
                await cluster.close()

    async def _make_ready(self) -> ReadyCluster:
        if self._supervisor is not None:
            await self._supervisor.ensure()
        cluster = await make_ready(self._setting, report=self._report)
        if self._supervisor is not None:
            self._supervisor.came_up()
        return cluster

    async def _recover_from(self, error: PipelineError, *, attempts: int) -> None:
        """Answer the waiting clients, and have the party at fault restarted."""
        self._report(error.message)
        self._fail(error.message)
        if self._supervisor is None:
            return
        if isinstance(error, SilentError):
            await self._supervisor.replace(error.party)
        elif attempts > 1 or (isinstance(error, DriverError) and error.hangs):
            await self._supervisor.replace(None)

    def _report(self, line: str) -> None:
        """Report a line once until all is well again: there are many attempts to recover."""
        if line not in self._told:
            self._told.add(line)
            self._tell(line)

    def _fail(self, why: str) -> None:
        self._trouble = why
        for request in self._queue.drain():
            _settle(request, PipelineError(why))

    async def _work(self, cluster: ReadyCluster) -> None:
        while True:
            requests = await self._queue.next_batch(window=self._window, patience=_CHECK_SECONDS)
            if not requests:
                await cluster.check()
                continue
            self._running = frozenset(one.identifier for one in requests)
            try:
                await self._run(cluster, requests)
            except PipelineError as error:
                for request in requests:
                    _settle(request, error)
                raise
            finally:
                self._running = frozenset()
                for request in requests:
                    request.done.cancel()  # does nothing unless the service is being cancelled

    async def _run(self, cluster: ReadyCluster, requests: list[Pending]) -> None:
        """Run one batch, without the requests whose shares are not at all servers."""
        while requests:
            bucket = bucket_for(sum(one.rows for one in requests), self._setting.buckets)
            missing = await cluster.run(requests, bucket=bucket)
            if not missing:
                self.batches = [*self.batches[-99:], (bucket, len(requests))]
                for request in requests:
                    _settle(request, None)
                return
            for request in requests:
                if request.identifier in missing:
                    _settle(request, BadMessageError("the shares of the request are not at all servers"))
            requests = [one for one in requests if one.identifier not in missing]

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
        """Serve one client until it leaves; a refused request does not end the connection."""
        self._clients += 1
        try:
            while True:
                header, size = await asyncio.wait_for(frames.read_header(reader), _IDLE_SECONDS)
                await frames.read_payload(reader, size, expected=0)
                try:
                    self._revocations.require_valid(peer)  # it may have been revoked since it came
                    answer = await self._answer(header, owner=peer.serial)
                except BadMessageError:
                    raise
                except PipelineError as error:
                    answer = {"error": error.message}
                await frames.write(writer, answer)
        except BadMessageError as error:
            await _tell(writer, error.message)
        except (EOFError, OSError, asyncio.TimeoutError):
            return  # the client left
        finally:
            self._clients -= 1

    def _window(self) -> float:
        """Return the seconds to wait for further requests: none where there is a single client."""
        return _WINDOW_SECONDS if self._clients > 1 else 0.0

    async def _answer(self, header: Header, *, owner: str) -> Header:
        operation = frames.text(header, "op")
        if operation == "hello":
            return {
                "model": self._setting.digest,
                "largest": self._largest,
                "trouble": self._trouble,
                "inference_protection": self._protection,
            }
        if operation != "run":
            raise BadMessageError("the service takes `hello` and `run` only")
        request = Pending(
            identifier=frames.identifier(header, "request"),
            rows=frames.count(header, "rows", largest=min(self._largest, LARGEST_BUCKET)),
            owner=owner,
            done=asyncio.get_running_loop().create_future(),
        )
        if self._trouble:
            raise PipelineError(self._trouble)
        if self._queue.rows + request.rows > _QUEUE_BATCHES * self._largest:
            raise PipelineError("too many requests wait")
        if self._queue.rows_of(owner) + request.rows > _QUEUE_BATCHES // SHARE * self._largest:
            raise PipelineError("too many requests of this client wait")
        if request.identifier in self._queue or request.identifier in self._running:
            raise BadMessageError("there is such a request already")
        self._queue.put(request)
        await request.done
        return {}


def _settle(request: Pending, error: PipelineError | None) -> None:
    if request.done.done():
        return
    if error is None:
        request.done.set_result(None)
    else:
        request.done.set_exception(error)


async def _tell(writer: asyncio.StreamWriter, why: str) -> None:
    try:
        await frames.write(writer, {"error": why})
    except OSError:
        return  # the client left meanwhile
