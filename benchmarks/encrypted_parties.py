"""How fast are private predictions where each party is a process of its own, in a LAN and in a WAN?

    python benchmarks/encrypted_parties.py                                       # two networks, twelve minutes
    python benchmarks/encrypted_parties.py --networks "MNIST A" "MNIST D" --minutes 30

The parties are those of `serve --local`: three servers, each with its TensorFlow in a network namespace, the driver in
another one, and between them mutual TLS. Service, weights provider and client are this process, one after the other.
Every answer is compared with NumPy's.

- request: `Client.predict`, all of it: new TLS connections to four parties, sharing, sending, the run, fetching, joining.
- run: the driver's part of it alone, from its order until the servers have their shares of the answer.
- build: the graph of one batch size, once for a deployment. Start: from nothing until the servers hold their shares of
  the weights.
- LAN: as this machine gives it. WAN: every link (between two servers, from the driver's TensorFlow, from the service,
  from the client) has 40 ms of round trip and 352 Mbit/s in each direction, imitated above TCP (`encrypted/pace.py`).
- rounds are counted on the graph; the servers' bytes by their tunnels, over all timed calls: payload that crossed between
  servers, with gRPC's framing, before TLS. The client's are its shares and those of the answer.
- spu: `benchmarks/peers/spu_speed.py` with its three parties as processes over SPU's own sockets: no TLS, LAN only.

A deployment may take `--limit` seconds, and all `--minutes`; what does not fit is said in the table. Writes
`results/encrypted_parties.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from encrypted import LARGEST_ERROR, SPU, measured, peer, prepare, tf_encrypted  # noqa: E402
from encrypted_networks import NETWORKS  # noqa: E402

from privacy_pipeline.data.features import FeaturePlan  # noqa: E402
from privacy_pipeline.encrypted import driving, model_format  # noqa: E402
from privacy_pipeline.encrypted.certificates import PARTIES, init_parties  # noqa: E402
from privacy_pipeline.encrypted.client import Client  # noqa: E402
from privacy_pipeline.encrypted.dialing import Address, addresses  # noqa: E402
from privacy_pipeline.encrypted.driver_process import DriverProcess  # noqa: E402
from privacy_pipeline.encrypted.local_parties import LocalParties  # noqa: E402
from privacy_pipeline.encrypted.model_format import PrivateModel  # noqa: E402
from privacy_pipeline.encrypted.pace import Pace, Speed  # noqa: E402
from privacy_pipeline.encrypted.provider import Provider  # noqa: E402
from privacy_pipeline.encrypted.published import Published  # noqa: E402
from privacy_pipeline.encrypted.service import Service  # noqa: E402
from privacy_pipeline.encrypted.warm import Limits, Setting  # noqa: E402
from privacy_pipeline.encrypted.worker.parties import CLIENT, PROVIDER, SERVERS  # noqa: E402
from privacy_pipeline.errors import PipelineError  # noqa: E402

RESULT = HERE / "results" / "encrypted_parties.json"
BATCHES = (1, 128, 1024)
SPEEDS: dict[str, Speed | None] = {"LAN": None, "WAN": Speed(delay_ms=20, rate_mbps=352)}
FEWEST, MOST = 3, 50  # timed calls of one batch size
SPU_MEMORY = 16.0  # GiB
LIMITS = Limits(load=300.0, build=600.0, run=300.0)
NO_FEATURES = FeaturePlan(
    columns=(), label="y", label_domain=("a", "b"), label_dtype="bytes", positive_class="b", unit_key=None
)
Row = dict[str, Any]


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
        ways = [
            asyncio.ensure_future(pace.out(reader, far[1], lambda size: None)),
            asyncio.ensure_future(pace.back(far[0], writer, lambda size: None)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far[1].close()
            writer.close()

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


async def deployed(
    folder: Path, speed: Speed | None, batches: tuple[int, ...], seconds: float, rows: dict[int, Row]
) -> None:
    """Measures one deployment; `rows` gets one for each batch size as soon as it is known."""
    deployment = Deployment(folder, model_format.load(folder / "model"), speed, batches)
    began = time.perf_counter()
    async with deployment.up() as client:
        if deployment.driver is None:
            raise PipelineError("the service is ready without a driver")
        start = deployment.loaded - began
        for batch in batches:
            rows[batch] = {
                "start": start,
                "build": deployment.driver.builds[batch],
                **await timed(deployment, client, batch, seconds),
            }


async def timed(deployment: Deployment, client: Client, batch: int, seconds: float) -> Row:
    """Requests of one batch size: medians, and what crossed in one."""
    with np.load(deployment.folder / f"rows{batch}.npz", allow_pickle=False) as archive:
        x, expected = archive["x"], archive["expected"]
    error = 0.0
    requests: list[float] = []
    runs: list[float] = []

    async def call() -> float:
        nonlocal error
        began = time.perf_counter()
        found = await client.predict({"x": x}, progress=lambda rows: None)
        taken = time.perf_counter() - began
        error = max(error, float(np.abs(found - expected).max()))
        return taken

    first = await call()
    before = await deployment.carried()
    while len(requests) < FEWEST or (sum(requests) < seconds and len(requests) < MOST):
        requests.append(await call())
        # The service may have started another one.
        runs.append(deployment.driver.run if deployment.driver is not None else np.nan)
    crossed = await deployment.carried() - before
    return {
        "first": first,
        "seconds": statistics.median(requests),
        "fastest": min(requests),
        "run": statistics.median(runs),
        "calls": len(requests),
        "bytes": crossed / len(requests),
        "client_bytes": 3 * 2 * 8 * (x.size + expected.size),
        "error": error,
    }


def with_parties(
    folder: Path, speed: Speed | None, batches: tuple[int, ...], seconds: float, limit: float
) -> dict[int, Row]:
    """A row for every batch size, `failed` where there is no right answer in time."""
    if limit <= 0:
        return {batch: {"failed": "not measured: the time was up"} for batch in batches}
    rows: dict[int, Row] = {}

    async def main() -> None:
        task = asyncio.current_task()
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await asyncio.wait_for(deployed(folder, speed, batches, seconds, rows), limit)

    why = ""
    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        sys.exit(143)
    except asyncio.TimeoutError:
        why = f"more than {limit:.0f} s"
    except PipelineError as error:
        why = f"failed: {error.message}"
    end_on_sigterm()  # the event loop took its own handler with it
    for row in rows.values():
        if not row["error"] < LARGEST_ERROR:
            row["failed"] = f"wrong by {row['error']:.2g}"
    return {batch: rows.get(batch, {"failed": why}) for batch in batches}


def with_spu(folder: Path, batches: tuple[int, ...], limit: float) -> dict[int, Row]:
    """SPU's three processes; a row for every batch size."""
    found = measured("spu", [*peer("spu", SPU), "processes"], folder, batches, limit, SPU_MEMORY)
    return {row["batch"]: row for row in found}


def rounds(folder: Path, batches: tuple[int, ...], limit: float) -> dict[int, Row]:
    """What the graphs hold."""
    counted = measured("count", tf_encrypted("count"), folder, batches, limit, SPU_MEMORY)
    return {row["batch"]: {"rounds": row["rounds"]} for row in counted if "rounds" in row}


def end_on_sigterm() -> None:
    """Ends by an exception, so that no process is left."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["20-64-32-1", "Adult MLP"])
    parser.add_argument("--settings", nargs="+", choices=SPEEDS, default=list(SPEEDS))
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--seconds", type=float, default=5.0, help="of timed requests for one batch size")
    parser.add_argument("--minutes", type=float, default=12.0, help="for everything")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds that one deployment may take")
    parser.add_argument("--spu", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args()
    end_on_sigterm()
    batches, end = tuple(given.batches), time.monotonic() + 60 * given.minutes
    rows: list[Row] = []
    for name in given.networks:
        for setting, engine, found in measurements(name, given, batches, end):
            rows += [
                {"network": name, "engine": engine, "setting": setting, **row, "batch": batch}
                for batch, row in found.items()
            ]
            RESULT.parent.mkdir(exist_ok=True)
            RESULT.write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(table(rows)))


def measurements(
    name: str, given: argparse.Namespace, batches: tuple[int, ...], end: float
) -> Iterator[tuple[str, str, dict[int, Row]]]:
    """Setting, engine and rows of everything that is measured with one network."""

    def left() -> float:
        return min(given.limit, end - time.monotonic())

    crossing: dict[int, Row] = {}
    for setting in given.settings:
        with tempfile.TemporaryDirectory() as folder:
            prepare(name, batches, Path(folder), given.seconds)
            found = with_parties(Path(folder), SPEEDS[setting], batches, given.seconds, left())
            crossing = crossing or rounds(Path(folder), batches, left())
            yield setting, "ours", {batch: {**crossing.get(batch, {}), **row} for batch, row in found.items()}
            if given.spu and setting == "LAN":
                yield setting, "spu", with_spu(Path(folder), batches, left())


def table(rows: list[Row]) -> list[str]:
    """Lines of Markdown."""
    lines = [
        "| network | batch | setting | engine | request ms | run ms | rows a second | calls | build s | start s | rounds "
        "| servers' MB | client's MB | largest error |",
        "|---|---:|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        start = f"| {row['network']} | {row['batch']:,} | {row['setting']} | {row['engine']} |"
        if "failed" in row:
            lines.append(f"{start} {row['failed']} | | | | | | | | | |")
            continue
        run, began = (f"{row[key] * factor:,.1f}" if key in row else "" for key, factor in (("run", 1e3), ("start", 1)))
        sent, shared = (f"{row[key] / 1e6:,.2f}" if key in row else "" for key in ("bytes", "client_bytes"))
        lines.append(
            f"{start} {row['seconds'] * 1e3:,.1f} | {run} | {row['batch'] / row['seconds']:,.0f} | {row['calls']} "
            f"| {row['build']:.1f} | {began} | {row.get('rounds', '')} | {sent} | {shared} | {row['error']:.1e} |"
        )
    return lines


if __name__ == "__main__":
    main()
