"""Parties of private prediction as processes of this machine, for encrypted_parties.py: near to each other or far."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from privacy_pipeline.data.schema.features import FeaturePlan
from privacy_pipeline.encrypted.client.client import Client
from privacy_pipeline.encrypted.evaluation import deployment
from privacy_pipeline.encrypted.evaluation.deployment import TimedDriver
from privacy_pipeline.encrypted.evaluation.through_parties import LIMITS
from privacy_pipeline.encrypted.model import model_format
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.encrypted.model.published import Published
from privacy_pipeline.encrypted.serving import driving
from privacy_pipeline.encrypted.serving.driver_process import DriverProcess
from privacy_pipeline.encrypted.serving.local_parties import LocalParties, server_commands
from privacy_pipeline.encrypted.serving.provider import Provider
from privacy_pipeline.encrypted.serving.ready_cluster import Setting
from privacy_pipeline.encrypted.transport.certificates import PARTIES, init_parties
from privacy_pipeline.encrypted.transport.dialing import Address, addresses
from privacy_pipeline.encrypted.transport.pace import Pace, Speed
from privacy_pipeline.encrypted.worker.parties import CLIENT, PROVIDER, SERVERS
from privacy_pipeline.errors import PipelineError

NO_FEATURES = FeaturePlan(
    columns=(), label="y", label_domain=("a", "b"), label_dtype="bytes", positive_class="b", unit_key=None
)


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
            raise SystemExit("parties.yaml does not hold what was written")
        self._running: deployment.Deployment | None = None

    @property
    def driver(self) -> TimedDriver:
        """The service that drives the servers."""
        return self.running.driver

    @property
    def running(self) -> deployment.Deployment:
        """The running deployment.

        Raises:
            PipelineError: nothing is running.
        """
        if self._running is None:
            raise PipelineError("no deployment is running")
        return self._running

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[Client]:
        """Yield a client of the ready service; end every process at the end."""
        provider = Provider(
            folder=self.parties / PROVIDER, addresses=self.addresses, private_model=self.folder / "model"
        )
        digest = model_format.digest_of(self.folder / "model")
        command = driving.command(self.parties, speed=self.speed)  # its tunnels are as slow as the servers'
        async with contextlib.AsyncExitStack() as stack:
            # One link is for the service's orders to the share servers, another one for what the client sends.
            orders = await stack.enter_async_context(self._slowed(SERVERS))
            requests = await stack.enter_async_context(self._slowed((*SERVERS, "driver")))
            setting = Setting(
                folder=self.parties / "driver",
                addresses={**self.addresses, **orders},
                published=self.folder / "model",
                digest=digest,
                buckets=self.batches,
                start_driver=lambda: DriverProcess.start(
                    command, environment=os.environ, log=self.folder / "driver.log"
                ),
                limits=LIMITS,
            )
            servers = LocalParties(
                commands=server_commands(self.parties, speed=self.speed), environment=os.environ, logs=self.folder
            )
            self._running = deployment.Deployment(setting, provider=provider, servers=servers)
            await stack.enter_async_context(self._running.up())
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
        """Return addresses behind which parties are as far away as in the setting; nothing for a LAN."""
        found = {}
        async with contextlib.AsyncExitStack() as stack:
            for name in names if self.speed is not None else ():
                found[name] = await stack.enter_async_context(slowed(self.addresses[name], self.speed))
            yield found


def free_addresses() -> dict[str, Address]:
    """Return a free port of this machine for each party."""
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in PARTIES]
    return {name: ("127.0.0.1", port) for name, port in zip(PARTIES, free, strict=True)}


@contextlib.asynccontextmanager
async def slowed(target: Address, speed: Speed) -> AsyncIterator[Address]:
    """Yield an address that forwards connections to another one, as slowly as a tunnel of that speed."""
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
