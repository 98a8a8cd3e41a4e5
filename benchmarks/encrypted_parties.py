"""How fast are private predictions if each party is a separate process, in a LAN and in a WAN?

    python benchmarks/encrypted_parties.py                                       # two networks, twelve minutes
    python benchmarks/encrypted_parties.py --networks "MNIST A" "MNIST D" --minutes 30

The parties are those of `serve --local`: three servers, each with its TensorFlow in a network namespace, the driver in
another one, and between them mutual TLS. Service, weights provider and client are this process, one after the other.
Every answer is compared with NumPy's.

- request: `Session.predict` without the connections: sharing, sending, run, fetching, joining.
- connect: `Client.session`, once for any number of requests: TLS connections to four parties, and a greeting.
- run: the driver's part of a request, from its order until the servers have their shares of the answer.
- build: the graph of one batch size, once for a deployment. Start: from nothing until the servers hold their shares of
  the weights.
- LAN: the loopback of this machine. WAN: every link (between two servers, from the driver's TensorFlow, from the
  service, from the client) has 40 ms of round trip and 352 Mbit/s in each direction, imitated above TCP
  (`encrypted/transport/pace.py`).
- rounds are counted on the graph. The servers' tunnels count the servers' bytes over all timed calls: what crossed
  between servers, with gRPC's framing, before TLS. The client's bytes are its shares and those of the answer.
- spu: `benchmarks/peers/spu_speed.py` with its three parties as processes over SPU's own sockets: no TLS, LAN only.

A deployment may take `--limit` seconds, and all of them `--minutes`; the table marks what does not fit. Writes
`results/encrypted_parties.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from encrypted import LARGEST_ERROR, SPU, measured, peer, prepare, tf_encrypted  # noqa: E402
from encrypted_deployment import Deployment  # noqa: E402
from encrypted_networks import NETWORKS  # noqa: E402

from privacy_pipeline.encrypted.client.client import Client, Session  # noqa: E402
from privacy_pipeline.encrypted.model import model_format  # noqa: E402
from privacy_pipeline.encrypted.transport.pace import Speed  # noqa: E402
from privacy_pipeline.errors import PipelineError  # noqa: E402

RESULT = HERE / "results" / "encrypted_parties.json"
BATCHES = (1, 128, 1024)
SPEEDS: dict[str, Speed | None] = {"LAN": None, "WAN": Speed(delay_ms=20, rate_mbps=352)}
FEWEST, MOST = 3, 50  # timed calls of one batch size
SPU_MEMORY = 16.0  # GiB
Row = dict[str, Any]


async def deployed(
    folder: Path, speed: Speed | None, batches: tuple[int, ...], seconds: float, rows: dict[int, Row]
) -> None:
    """Measure one deployment; `rows` gets a row for each batch size as soon as it is measured."""
    deployment = Deployment(folder, model_format.load(folder / "model"), speed, batches)
    began = time.perf_counter()
    async with deployment.up() as client:
        start = deployment.running.loaded - began
        for batch in batches:
            rows[batch] = {
                "start": start,
                "build": deployment.driver.builds[batch].seconds,
                **await timed(deployment, client, batch, seconds),
            }


async def timed(deployment: Deployment, client: Client, batch: int, seconds: float) -> Row:
    """Return requests of one batch size: medians, and the bytes of one request."""
    connects = []
    for _ in range(FEWEST):
        began = time.perf_counter()
        async with client.session():
            connects.append(time.perf_counter() - began)
    async with client.session() as session:
        return {"connect": statistics.median(connects), **await requested(deployment, session, batch, seconds)}


async def requested(deployment: Deployment, session: Session, batch: int, seconds: float) -> Row:
    """Return the same for one session."""
    with np.load(deployment.folder / f"rows{batch}.npz", allow_pickle=False) as archive:
        x, expected = archive["x"], archive["expected"]
    error = 0.0
    requests: list[float] = []
    runs: list[float] = []

    async def call() -> float:
        nonlocal error
        began = time.perf_counter()
        found = await session.predict({"x": x})
        taken = time.perf_counter() - began
        error = max(error, float(np.abs(found - expected).max()))
        return taken

    first = await call()
    before = await carried(deployment)
    while len(requests) < FEWEST or (sum(requests) < seconds and len(requests) < MOST):
        requests.append(await call())
        runs.append(deployment.driver.run)
    crossed = await carried(deployment) - before
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


async def carried(deployment: Deployment) -> int:
    """Return the bytes between the servers so far."""
    found = await deployment.running.carried()
    if found is None:
        raise PipelineError("the servers are not on this machine")
    return found


def with_parties(
    folder: Path, speed: Speed | None, batches: tuple[int, ...], seconds: float, limit: float
) -> dict[int, Row]:
    """Return a row for every batch size, `failed` if there is no right answer in time."""
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
    end_on_sigterm()  # the event loop removed its own handler at its end
    for row in rows.values():
        if not row["error"] < LARGEST_ERROR:
            row["failed"] = f"wrong by {row['error']:.2g}"
    return {batch: rows.get(batch, {"failed": why}) for batch in batches}


def with_spu(folder: Path, batches: tuple[int, ...], limit: float) -> dict[int, Row]:
    """Measure SPU's three processes; return a row for every batch size."""
    found = measured("spu", [*peer("spu", SPU), "processes"], folder, batches, limit, SPU_MEMORY)
    return {row["batch"]: row for row in found}


def rounds(folder: Path, batches: tuple[int, ...], limit: float) -> dict[int, Row]:
    """Return the counts of the graphs."""
    counted = measured("count", tf_encrypted("count"), folder, batches, limit, SPU_MEMORY)
    return {row["batch"]: {"rounds": row["rounds"]} for row in counted if "rounds" in row}


def end_on_sigterm() -> None:
    """End by an exception, so that no process is left."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["20-64-32-1", "Adult MLP"])
    parser.add_argument("--settings", nargs="+", choices=SPEEDS, default=list(SPEEDS))
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of timed requests for one batch size")
    parser.add_argument("--minutes", type=float, default=12.0, help="minutes for everything")
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
    """Yield setting, engine and rows of everything that is measured with one network."""

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
    """Return lines of Markdown."""
    lines = [
        "| network | batch | setting | engine | connect ms | request ms | run ms | rows a second | calls | build s "
        "| start s | rounds | servers' MB | client's MB | largest error |",
        "|---|---:|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        start = f"| {row['network']} | {row['batch']:,} | {row['setting']} | {row['engine']} |"
        if "failed" in row:
            lines.append(f"{start} {row['failed']} | | | | | | | | | | |")
            continue
        scaled = (("connect", 1e3), ("run", 1e3), ("start", 1))
        connect, run, began = (f"{row[key] * factor:,.1f}" if key in row else "" for key, factor in scaled)
        sent, shared = (f"{row[key] / 1e6:,.2f}" if key in row else "" for key in ("bytes", "client_bytes"))
        lines.append(
            f"{start} {connect} | {row['seconds'] * 1e3:,.1f} | {run} | {row['batch'] / row['seconds']:,.0f} "
            f"| {row['calls']} | {row['build']:.1f} | {began} | {row.get('rounds', '')} | {sent} | {shared} "
            f"| {row['error']:.1e} |"
        )
    return lines


if __name__ == "__main__":
    main()
