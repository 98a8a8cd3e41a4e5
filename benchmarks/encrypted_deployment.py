"""Parties of private prediction as processes of this machine, for encrypted_parties.py: near to each other, or far."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from privacy_pipeline.data.features import FeaturePlan
from privacy_pipeline.encrypted import driving, model_format
from privacy_pipeline.encrypted.certificates import PARTIES, init_parties
from privacy_pipeline.encrypted.client import Client
from privacy_pipeline.encrypted.dialing import Address, addresses
from privacy_pipeline.encrypted.driver_process import DriverProcess
from privacy_pipeline.encrypted.local_parties import LocalParties
from privacy_pipeline.encrypted.model_format import PrivateModel
from privacy_pipeline.encrypted.pace import Pace, Speed
from privacy_pipeline.encrypted.provider import Provider
from privacy_pipeline.encrypted.published import Published
from privacy_pipeline.encrypted.service import Service
from privacy_pipeline.encrypted.warm import Limits, Setting
from privacy_pipeline.encrypted.worker.parties import CLIENT, PROVIDER, SERVERS
from privacy_pipeline.errors import PipelineError

LIMITS = Limits(load=300.0, build=600.0, run=300.0)
NO_FEATURES = FeaturePlan(
    columns=(), label="y", label_domain=("a", "b"), label_dtype="bytes", positive_class="b", unit_key=None
)


class TimedDriver:
    """A driver that notes how long it takes: the latest build of each size, and the latest run."""

    def __init__(self, driver: DriverProcess) -> None:
        self._driver = driver
        self.builds: dict[int, float] = {}
        self.run = 0.0

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._driver.alive

    async def call(self, message: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
        """What `DriverProcess.call` does."""
        began = time.perf_counter()
        answer = await self._driver.call(message, seconds=seconds)
        taken = time.perf_counter() - began
        if message["op"] == "build":
            self.builds[message["bucket"]] = taken
        elif message["op"] == "run":
            self.run = taken
        return answer

    async def close(self) -> None:
        """Ends it."""
        await self._driver.close()


class Deployment:
    """The parties of one network and one setting, and the service, from `up` until its end."""

    def __init__(self, folder: Path, model: PrivateModel, speed: Speed | None, batches: tuple[int, ...]) -> None:
        self.folder, self.model, self.speed, self.batches = folder, model, speed, batches
        self.parties = folder / "parties"
        init_parties(folder=self.parties)
        self.addresses = free_addresses()
        lines = [f"{name}: {host}:{port}" for name, (host, port) in self.addresses.items()]
        (self.parties / "parties.yaml").write_text("\n".join(lines) + "\n")
        if addresses(self.parties) != self.addresses:
            raise SystemExit("parties.yaml does not say what was written")
        pace = [] if speed is None else ["--delay-ms", str(speed.delay_ms), "--rate-mbps", str(speed.rate_mbps)]
        own = [str(Path(sys.executable).parent / "privacy-pipeline"), "encrypted", "party"]
        tail = ["--parties", str(self.parties), "--parent", str(os.getpid()), *pace]
        self.servers = LocalParties(
            commands={name: [*own, name, *tail] for name in SERVERS}, environment=os.environ, logs=folder
        )
        self.driver: TimedDriver | None = None
        self.loaded = 0.0  # when the servers held the shares of the weights

    async def start_driver(self) -> TimedDriver:
        """One whose tunnels are as slow as the servers'."""
        command = driving.command(self.parties, speed=self.speed)
        process = await DriverProcess.start(command, environment=os.environ, log=self.folder / "driver.log")
        self.driver, self.loaded = TimedDriver(process), time.perf_counter()
        return self.driver

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[Client]:
        """A client of the ready service; at the end every process has ended."""
        ready = asyncio.Event()
        provider = Provider(
            folder=self.parties / PROVIDER, addresses=self.addresses, private_model=self.folder / "model"
        )
        digest = model_format.digest_of(self.folder / "model")
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.servers.close)
            # A link for the service's orders to the desks, and another one for what the client sends.
            orders = await stack.enter_async_context(self._slowed(SERVERS))
            requests = await stack.enter_async_context(self._slowed((*SERVERS, "driver")))
            stack.callback((await provider.serve(report=lambda line: None)).close)
            setting = Setting(
                folder=self.parties / "driver",
                addresses={**self.addresses, **orders},
                published=self.folder / "model",
                digest=digest,
                buckets=self.batches,
                start_driver=self.start_driver,
                limits=LIMITS,
            )
            service = Service(setting, supervisor=self.servers, report=lambda line: line == "ready" and ready.set())
            serving = asyncio.ensure_future(service.run())
            stack.push_async_callback(ended, serving)
            await first_of(asyncio.ensure_future(ready.wait()), serving)
            public = PrivateModel(
                inputs=self.model.inputs, layers=self.model.layers, output=self.model.output, weights={}
            )
            yield Client(
                folder=self.parties / CLIENT,
                addresses={**self.addresses, **requests},
                published=Published(model=public, digest=digest, features=NO_FEATURES, transform=Path()),
                seconds=LIMITS.run,
            )

    @contextlib.asynccontextmanager
    async def _slowed(self, names: tuple[str, ...]) -> AsyncIterator[dict[str, Address]]:
        """Addresses behind which parties are as far away as the setting says; nothing where it is a LAN."""
        found = {}
        async with contextlib.AsyncExitStack() as stack:
            for name in names if self.speed is not None else ():
                found[name] = await stack.enter_async_context(slowed(self.addresses[name], self.speed))
            yield found

    async def carried(self) -> int:
        """Bytes that the servers' tunnels to one another counted since they started."""
        counted = await asyncio.gather(*(self._carried(name) for name in SERVERS))
        return sum(counted)

    async def _carried(self, name: str) -> int:
        log, start = self.folder / f"{name}.log", f"{name}: bytes "
        before = log.read_text().count(start)
        os.kill(self.servers.pids[name], signal.SIGUSR1)
        limit = time.monotonic() + 10
        while log.read_text().count(start) == before or not log.read_text().endswith("\n"):
            if time.monotonic() > limit:
                raise PipelineError(f"{name} does not say what it carried")
            await asyncio.sleep(0.05)
        line = [line for line in log.read_text().splitlines() if line.startswith(start)][-1]
        return sum(way for one in json.loads(line[len(start) :]).values() for way in one.values())


def free_addresses() -> dict[str, Address]:
    """A free port of this machine for each party."""
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in PARTIES]
    return {name: ("127.0.0.1", port) for name, port in zip(PARTIES, free, strict=True)}


@contextlib.asynccontextmanager
async def slowed(target: Address, speed: Speed) -> AsyncIterator[Address]:
    """An address whose connections are carried to another one, as slowly as a tunnel of that speed."""
    pace = Pace(speed)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2 * speed.delay_ms / 1e3)  # TCP's handshake
        try:
            far = await asyncio.open_connection(*target)
        except OSError:
            writer.close()
            return
        await pace.join((reader, writer), far)

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield host, port
    finally:
        server.close()


async def ended(task: asyncio.Future[Any]) -> None:
    """Ends a task."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def first_of(wanted: asyncio.Future[Any], other: asyncio.Future[Any]) -> None:
    """Waits for one; if the other ends first, raises what ended it."""
    try:
        await asyncio.wait([wanted, other], return_when=asyncio.FIRST_COMPLETED)
        if other.done():
            other.result()
    finally:
        await ended(wanted)
