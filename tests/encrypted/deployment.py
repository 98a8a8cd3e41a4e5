"""A deployment on this machine whose TensorFlow is faked; everything else is real, each party in its own process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.data.schema.features import FeaturePlan
from privacy_pipeline.encrypted.client.client import Client
from privacy_pipeline.encrypted.model import fixed_point, model_format, reference
from privacy_pipeline.encrypted.model.layers import Input, Layer
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.encrypted.model.published import Published
from privacy_pipeline.encrypted.serving.driver_process import DriverProcess
from privacy_pipeline.encrypted.serving.local_parties import LocalParties
from privacy_pipeline.encrypted.serving.ready_cluster import Limits, Setting
from privacy_pipeline.encrypted.serving.service import Service
from privacy_pipeline.encrypted.transport.certificates import PARTIES, init_parties
from privacy_pipeline.encrypted.transport.dialing import addresses
from privacy_pipeline.encrypted.worker.parties import PROVIDER, SERVERS

FAKES = Path(__file__).parent / "fakes"
BUCKETS = (1, 4, 16)
# Names of this machine, of which two are not known as such: they stand for hosts of their own.
APART = ("127.0.0.1", "2130706433", "0x7f000001")
LIMITS = Limits(share_server=2.0, load=10.0, build=10.0, run=3.0)
FEATURES = FeaturePlan(
    columns=(), label="y", label_domain=("a", "b"), label_dtype="bytes", positive_class="b", unit_key=None
)


def network() -> PrivateModel:
    """Two inputs, one of them looked up, through two dense layers."""
    random = np.random.default_rng(0)
    layers = (
        Layer(name="of/kind", op="embedding", inputs=("kind",), weights={"table": (5, 3)}),
        Layer(name="both", op="concatenate", inputs=("of/kind", "x"), config={"axis": 0}),
        Layer(name="hidden", op="dense", inputs=("both",), weights={"kernel": (7, 6), "bias": (6,)}),
        Layer(name="relu", op="relu", inputs=("hidden",)),
        Layer(name="logit", op="dense", inputs=("relu",), weights={"kernel": (6, 1)}),
    )
    weights = {f"{n.name}/{role}": random.normal(size=shape) for n in layers for role, shape in n.weights.items()}
    inputs = (Input(name="x", shape=(4,)), Input(name="kind", shape=(), vocabulary=5))
    return fixed_point.scaled(PrivateModel(inputs=inputs, layers=layers, output="logit", weights=weights))


def make_parties(folder: Path) -> Path:
    """Keys and certificates, and an address each that is free."""
    init_parties(folder=folder)
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in PARTIES]
    lines = [f"{party}: 127.0.0.1:{port}" for party, port in zip(PARTIES, free, strict=True)]
    (folder / "parties.yaml").write_text("\n".join(lines) + "\n")
    return folder


def on_hosts(folder: Path, hosts: tuple[str, ...]) -> None:
    """Puts the three servers of parties.yaml on these hosts; ports stay."""
    moved = dict(zip(SERVERS, hosts, strict=True))
    lines = [f"{name}: {moved.get(name, host)}:{port}" for name, (host, port) in addresses(folder).items()]
    (folder / "parties.yaml").write_text("\n".join(lines) + "\n")


@dataclass
class Deployment:
    """Folders of one deployment, and what its service said."""

    folder: Path
    model: PrivateModel = field(default_factory=network)
    said: list[str] = field(default_factory=list)
    supervised: bool = True  # else parties are started by the test, as on hosts of their own

    def __post_init__(self) -> None:
        self.parties = make_parties(self.folder / "parties")
        self.scratch = self.folder / "scratch"
        self.scratch.mkdir()
        self.digest = model_format.save(self.model, self.folder / "model")
        fake = [sys.executable, str(FAKES / "server.py"), str(self.parties)]
        commands = {name: [*fake, name, str(self.scratch)] for name in SERVERS}
        commands[PROVIDER] = [
            sys.executable, str(FAKES / "provider.py"), str(self.parties), str(self.folder / "model")
        ]  # fmt: skip
        self.local = LocalParties(commands=commands, environment=os.environ, logs=self.scratch, grace_seconds=5.0)
        self.driver: DriverProcess | None = None
        self.service = Service(
            self._setting(), supervisor=self.local if self.supervised else None, report=self.said.append
        )

    def _setting(self) -> Setting:
        return Setting(
            folder=self.parties / "driver",
            addresses=addresses(self.parties),
            published=self.folder / "model",
            digest=self.digest,
            buckets=BUCKETS,
            start_driver=self._start_driver,
            limits=LIMITS,
        )

    async def _start_driver(self) -> DriverProcess:
        self.driver = await DriverProcess.start(
            [sys.executable, str(FAKES / "driver.py"), str(self.scratch)],
            environment=os.environ,
            log=self.scratch / "driver.log",
        )
        return self.driver

    @property
    def ready_times(self) -> int:
        """How often the service became ready."""
        return self.said.count("ready")

    async def until_ready(self, times: int = 1, *, seconds: float = 60.0) -> None:
        """Waits until the service has become ready so often."""
        limit = time.monotonic() + seconds
        while self.ready_times < times:
            if time.monotonic() > limit:
                raise TimeoutError(f"not ready {times} times within {seconds} s: {self.said[-5:]}")
            await asyncio.sleep(0.05)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """All parties and the service, ended at the end."""
        task = asyncio.ensure_future(self.service.run())
        try:
            ready = asyncio.ensure_future(self.until_ready())
            await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            await ready
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.local.close()

    def client(self, *, seconds: float = 20.0) -> Client:
        """A client."""
        public = PrivateModel(inputs=self.model.inputs, layers=self.model.layers, output=self.model.output, weights={})
        return Client(
            folder=self.parties / "prediction-client",
            addresses=addresses(self.parties),
            published=Published(model=public, digest=self.digest, features=FEATURES, transform=Path()),
            seconds=seconds,
        )

    def rows(self, count: int, *, seed: int) -> dict[str, NDArray[np.float64]]:
        """Rows as a client shares them."""
        random = np.random.default_rng(seed)
        return {"x": random.normal(size=(count, 4)), "kind": np.eye(5)[random.integers(0, 5, count)]}

    def expected(self, rows: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Logits of these rows in the clear."""
        given = {"x": rows["x"], "kind": rows["kind"].argmax(axis=1)}
        return reference.evaluate(self.model, given)[self.model.output]

    def buckets_run(self) -> list[int]:
        """Buckets of all batches so far."""
        path = self.scratch / "buckets"
        return [int(line) for line in path.read_text().split()] if path.exists() else []
