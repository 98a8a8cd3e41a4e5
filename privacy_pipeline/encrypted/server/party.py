"""A server of encrypted inference as it is deployed: TensorFlow in a closed namespace, and what connects it.

The process outside holds the keys and no TensorFlow; what computes has no network, no keys and no store but its own.
Every connection between the two namespaces' loopbacks goes through mutual TLS (`tunnel`), and into here only for those
whose role may.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from privacy_pipeline.encrypted.run_folder import base_folder, run_folder
from privacy_pipeline.encrypted.sandbox import environment
from privacy_pipeline.encrypted.sandbox.sandbox import Sandbox
from privacy_pipeline.encrypted.server import share_server
from privacy_pipeline.encrypted.transport.certificates import require_current
from privacy_pipeline.encrypted.transport.dialing import Address, addresses
from privacy_pipeline.encrypted.transport.joins import TunnelRecord
from privacy_pipeline.encrypted.transport.pace import Speed
from privacy_pipeline.encrypted.transport.sockets import to_unix
from privacy_pipeline.encrypted.transport.tunnel import SHARES, TENSORFLOW, Route, open_egress, open_ingress
from privacy_pipeline.encrypted.worker.parties import CLIENT, PORTS, PROVIDER, SERVERS
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.processes.programs import arguments_of
from privacy_pipeline.text.shown_text import visible

DRIVER = "driver"
_READY_SECONDS, _READY_PAUSE = 120.0, 0.1
_MOMENT_SECONDS = 0.1
Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Party:
    """Who a process is, and whom it talks to.

    Attributes:
        name: its role.
        folder: its own folder, of `init_parties`.
        addresses: of all parties.
        speed: slows the tunnels down that it opens; None for as fast as the machine can.
    """

    name: str
    folder: Path
    addresses: dict[str, Address]
    speed: Speed | None = None


def load(*, name: str, folder: Path, speed: Speed | None = None) -> Party:
    """Return the party `name` of the folder that `init_parties` made, or of what of it is on this host.

    Raises:
        BadInputError: there is no such party, or parties.yaml is broken.
        PipelineError: its certificate is missing, expired or not valid yet.
    """
    known = addresses(folder)
    if name not in known:
        raise BadInputError(f"{folder}: there is no party '{name}'", fix=f"use one of {', '.join(known)}")
    own = folder / name
    require_current(own / "certificate.pem")
    return Party(name=name, folder=own, addresses=known, speed=speed)


async def until_told_to_end(party: Party, *, report: Report) -> None:
    """Serve until SIGTERM or SIGINT. Arguments and errors are those of `serve`."""
    serving = asyncio.create_task(serve(party, report=report))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        report("ended")


async def serve(party: Party, *, report: Report) -> None:
    """Run one of the three servers until it is cancelled.

    Args:
        party: a server.
        report: gets one line each: that it is ready, why a peer was refused, and at each SIGUSR1 the bytes that
            crossed its tunnels since it started.

    Raises:
        PipelineError: no namespace, no secure randomness, an address that cannot be bound; or TensorFlow ended.
    """
    if party.name not in SERVERS:
        raise BadInputError(f"{party.name} is not a server", fix=f"use one of {', '.join(SERVERS)}")
    own, others = PORTS[SERVERS.index(party.name)], [name for name in SERVERS if name != party.name]
    with run_folder(party.name) as run, contextlib.closing(Errors()) as errors:
        (run / "store").mkdir(mode=0o700)
        streams = {"stdin": asyncio.subprocess.DEVNULL, "stderr": errors.sink}
        carried = {name: TunnelRecord(report=complain) for name in others}
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: report(_counted(carried)))
        shares = await share_server.serve(socket_path=run / "shares.sock", store=run / "store")
        try:
            async with sandboxed(
                party, carried, work=run / "store", program=["party_server", party.name], **streams
            ) as inner:
                routes = {
                    TENSORFLOW: Route(
                        allowed=frozenset({*others, DRIVER}), connect=functools.partial(inner.connect, own)
                    ),
                    SHARES: Route(
                        allowed=frozenset({DRIVER, PROVIDER, CLIENT}),
                        connect=to_unix(run / "shares.sock"),
                        names_role=True,
                    ),
                }
                record = TunnelRecord(report=lambda reason: report(f"refused: {reason}"))
                address = party.addresses[party.name]
                ended = asyncio.create_task(inner.process.wait())
                await _ready(inner, own, ended, errors)
                ingress = await open_ingress(folder=party.folder, address=address, routes=routes, record=record)
                try:
                    report(f"ready on {address[0]}:{address[1]}")
                    await ended
                finally:
                    ingress.cancel()
                    ended.cancel()
                raise PipelineError(f"its TensorFlow server ended: {await errors.last()}", fix="start the party again")
        finally:
            shares.close()


class Errors:
    """What a process writes to `sink`: passed on to standard error line by line, the last one kept."""

    def __init__(self) -> None:
        self._source, self.sink = os.pipe()
        os.set_blocking(self._source, False)
        self._last, self._rest = b"", b""
        asyncio.get_running_loop().add_reader(self._source, self._take)

    def _take(self) -> None:
        with contextlib.suppress(BlockingIOError):
            content = os.read(self._source, 1 << 16)
            sys.stderr.buffer.write(content)
            sys.stderr.flush()
            *lines, self._rest = (self._rest + content).split(b"\n")
            self._last = next((line for line in reversed(lines) if line.strip()), self._last)

    async def last(self) -> str:
        """Return the last line, after a moment in which what was written comes through."""
        await asyncio.sleep(_MOMENT_SECONDS)
        return self._last.decode(errors="replace").strip() or "it printed nothing"

    def close(self) -> None:
        """End it."""
        asyncio.get_running_loop().remove_reader(self._source)
        os.close(self._source)
        os.close(self.sink)


async def _ready(inner: Sandbox, port: int, ended: asyncio.Task[int], errors: Errors) -> None:
    """Wait until TensorFlow listens."""
    clock = asyncio.get_running_loop().time
    limit = clock() + _READY_SECONDS
    while clock() < limit:
        if ended.done():
            raise PipelineError(f"its TensorFlow server does not start: {await errors.last()}")
        try:
            (await inner.connect(port)).close()
            return
        except OSError:
            await asyncio.sleep(_READY_PAUSE)
    raise PipelineError(f"its TensorFlow server does not start within {_READY_SECONDS:g} s")


@contextlib.asynccontextmanager
async def sandboxed(
    party: Party, servers: Mapping[str, TunnelRecord], *, work: Path, program: list[str], **streams: int
) -> AsyncIterator[Sandbox]:
    """Run a worker program in a closed namespace, whose connections to `servers` go through tunnels.

    Args:
        party: whose.
        servers: that it may reach, each with the record of its tunnel.
        work: folder in which it starts.
        program: module of `worker` and its arguments.
        streams: as for `asyncio.create_subprocess_exec`.

    Raises:
        PipelineError: no namespace can be had, or TF-Encrypted's environment is not set up.
    """
    module, *arguments = program
    # gRPC would ask a proxy for the way to the loopback.
    kept = {name: value for name, value in environment.variables().items() if not name.lower().endswith("_proxy")}
    ports = {PORTS[SERVERS.index(name)]: name for name in servers}
    inner = await Sandbox.start(
        [
            str(environment.interpreter().absolute()),
            *arguments_of(f"privacy_pipeline.encrypted.worker.{module}"),
            *arguments,
        ],
        ports=list(ports),
        hidden=[party.folder.parent, base_folder()],
        folder=work,
        environment=kept,
        **streams,
    )
    tunnels = []
    try:
        for port, name in ports.items():
            tunnels.append(
                await open_egress(
                    folder=party.folder,
                    listener=inner.listeners[port],
                    address=party.addresses[name],
                    expected=name,
                    record=servers[name],
                    speed=party.speed,
                )
            )
        yield inner
    finally:
        for tunnel in tunnels:
            tunnel.cancel()
        await inner.close()


def _counted(carried: Mapping[str, TunnelRecord]) -> str:
    """Return the line with the payload bytes of its own tunnels: mostly what it fetched from the other servers."""
    return "bytes " + json.dumps({name: {"out": one.bytes_out, "in": one.bytes_in} for name, one in carried.items()})


def complain(reason: str) -> None:
    """Print on standard error why a tunnel does not open."""
    sys.stderr.write(f"{visible(reason, lines=True)}\n")
    sys.stderr.flush()
