"""The parties of one model for as long as something is measured with them, and no longer.

Service and weights provider are this process; the three servers are processes of this machine that end with it, or
run on hosts of their own. Unlike a service that lasts, it ends at the first failure, and names the party at fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from privacy_pipeline.encrypted.serving.local_parties import LocalParties
from privacy_pipeline.encrypted.serving.provider import PROVIDE_SECONDS, Provider
from privacy_pipeline.encrypted.serving.ready_cluster import Driver, Setting
from privacy_pipeline.encrypted.serving.service import Service
from privacy_pipeline.encrypted.worker.parties import SERVERS
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.files.bounded import json_value

SERVERS_SECONDS = 180.0  # until servers of this machine listen
_BLAME_SECONDS = 2.0  # until the service ends of what a client heard of first
_COUNT_SECONDS, _COUNT_PAUSE = 10.0, 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Built:
    """A graph: how long the driver took, and what it counted on it (`worker/traffic.py`)."""

    seconds: float
    rounds: int
    sent_bytes: int


class TimedDriver:
    """A driver that notes how long it takes: the latest build of each size, and the latest run.

    Attributes:
        builds: by batch size.
        run: seconds of the latest batch.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.builds: dict[int, Built] = {}
        self.run = 0.0

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._driver.alive

    async def call(self, message: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
        """Do one thing; errors are the driver's."""
        began = time.perf_counter()
        answer = await self._driver.call(message, seconds=seconds)
        taken = time.perf_counter() - began
        if message["op"] == "build":
            self.builds[message["bucket"]] = Built(
                seconds=taken, rounds=answer["rounds"], sent_bytes=answer["sent_bytes"]
            )
        elif message["op"] == "run":
            self.run = taken
        return answer

    async def close(self) -> None:
        """End it."""
        await self._driver.close()


class Deployment:
    """Service, weights provider and, on this machine, the servers.

    Args:
        setting: the service's.
        provider: of the same model.
        servers: of this machine, started and ended; None where they run on hosts of their own.

    Attributes:
        loaded: `time.perf_counter` of when the servers held the shares of the weights.
    """

    def __init__(self, setting: Setting, *, provider: Provider, servers: LocalParties | None) -> None:
        self._setting = dataclasses.replace(setting, start_driver=self._start_driver)
        self._start = setting.start_driver
        self._provider, self._servers = provider, servers
        self._driver: TimedDriver | None = None
        self._last = "nothing was reported"
        self.loaded = 0.0

    @property
    def driver(self) -> TimedDriver:
        """That of the ready deployment.

        Raises:
            PipelineError: there is none.
        """
        if self._driver is None:
            raise PipelineError("the parties were never ready")
        return self._driver

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        """Serve clients within the context; at its end, all that was started has ended.

        Raises:
            PipelineError: an address cannot be bound, a party does not come up in time, or failed meanwhile; names it.
        """
        async with contextlib.AsyncExitStack() as stack:
            if self._servers is not None:
                stack.push_async_callback(self._servers.close)
            stack.callback((await self._provider.serve(report=lambda line: None)).close)
            ready = asyncio.Event()

            def hear(line: str) -> None:
                self._last = line
                if line == "ready":
                    ready.set()

            service = Service(self._setting, supervisor=self._servers, report=hear, recovers=False)
            serving = asyncio.ensure_future(service.run())
            stack.push_async_callback(_ended, serving)
            await self._until(ready, serving)
            try:
                yield
            except PipelineError:
                await asyncio.wait([serving], timeout=_BLAME_SECONDS)
                if serving.done():
                    serving.result()  # its error explains better why a client got no answer
                raise

    async def carried(self) -> int | None:
        """Return the bytes that the servers' tunnels to one another counted since they started.

        None where the servers run on hosts of their own.

        Raises:
            PipelineError: a server does not report it.
        """
        if self._servers is None:
            return None
        return sum(await asyncio.gather(*(_carried(self._servers, name) for name in SERVERS)))

    async def _start_driver(self) -> TimedDriver:
        self.loaded = time.perf_counter()
        self._driver = TimedDriver(await self._start())
        return self._driver

    async def _until(self, ready: asyncio.Event, serving: asyncio.Future[None]) -> None:
        limits = self._setting.limits
        seconds = PROVIDE_SECONDS + limits.load + limits.build * len(self._setting.buckets)
        seconds += SERVERS_SECONDS if self._servers is not None else 0.0
        waiting = asyncio.ensure_future(ready.wait())
        try:
            tasks: list[asyncio.Future[Any]] = [waiting, serving]
            await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
            if not ready.is_set():
                raise PipelineError(f"the parties are not ready within {seconds:g} s: {self._last}")
        finally:
            await _ended(waiting)


async def _carried(servers: LocalParties, name: str) -> int:
    log, start = servers.log(name), f"{name}: bytes "
    before = log.read_text().count(start)
    if name not in servers.pids:
        raise PipelineError(f"{name} ended", fix=f"see {log}")
    os.kill(servers.pids[name], signal.SIGUSR1)
    limit = time.monotonic() + _COUNT_SECONDS
    while log.read_text().count(start) == before or not log.read_text().endswith("\n"):
        if time.monotonic() > limit:
            raise PipelineError(f"{name} does not report what it carried", fix=f"see {log}")
        await asyncio.sleep(_COUNT_PAUSE)
    line = [line for line in log.read_text().splitlines() if line.startswith(start)][-1]
    return sum(way for one in json_value(line[len(start) :]).values() for way in one.values())


async def _ended(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
