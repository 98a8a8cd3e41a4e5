"""Three parties and a driver as they are deployed, each with a folder of its own, and a recorder on every link."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.encrypted import run_folder
from privacy_pipeline.encrypted.model import reference, shares
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.encrypted.sandbox import environment
from privacy_pipeline.encrypted.serving import driving
from privacy_pipeline.encrypted.transport.certificates import init_parties
from privacy_pipeline.encrypted.worker.parties import SERVERS
from tests.encrypted.processes import left_after, marked

CLI = [str(Path(sys.executable).parent / "privacy-pipeline")]


@dataclass
class Recorder:
    """Carries bytes to the servers and keeps those of each connection and direction; runs in a thread of its own."""

    targets: dict[str, tuple[str, int]]  # by link, "server0>server1"
    ports: dict[str, int] = field(default_factory=dict)
    streams: dict[str, list[bytearray]] = field(default_factory=dict)  # by link; the other way "answers on LINK"

    def start(self) -> None:
        """Listens for every link."""
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)

    def stop(self) -> None:
        """Ends."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _open(self) -> None:
        for link in self.targets:
            server = await asyncio.start_server(lambda r, w, name=link: self._carry(name, r, w), "127.0.0.1", 0)
            self.ports[link] = server.sockets[0].getsockname()[1]

    async def _carry(self, link: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def copy(name: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            kept = bytearray()
            self.streams.setdefault(name, []).append(kept)
            try:
                while content := await source.read(1 << 16):
                    kept += content
                    sink.write(content)
                    await sink.drain()
            except OSError:
                pass
            sink.close()

        try:
            far = await asyncio.open_connection(*self.targets[link])
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(link, reader, far[1]), copy(f"answers on {link}", far[0], writer))


class Deployment:
    """What runs, and how a test talks to it."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.mark, self.environment = marked()
        # Not in the scratch folder: the path of a Unix socket is short.
        self.runs = Path(tempfile.mkdtemp(dir="/dev/shm"))
        self.environment |= environment.variables() | {run_folder.VARIABLE: str(self.runs)}
        init_parties(folder=scratch / "all")
        self.addresses = {name: ("127.0.0.1", _free_port()) for name in SERVERS}
        peers = (*SERVERS, "driver")
        self.recorder = Recorder({f"{a}>{b}": self.addresses[b] for a in peers for b in SERVERS if a != b})
        self.recorder.start()
        for name in peers:
            self._host(name)
        self.parties: dict[str, subprocess.Popen[str]] = {}
        self.driver: subprocess.Popen[str] | None = None

    def _host(self, name: str) -> None:
        """A host has its own folder and parties.yaml, in which the others are behind the recorder."""
        folder = self.scratch / f"host-{name}"
        shutil.copytree(self.scratch / "all" / name, folder / name)
        lines = [f"{other}: 127.0.0.1:9" for other in ("weights-provider", "prediction-client", "driver")]
        for other in SERVERS:
            port = self.addresses[other][1] if other == name else self.recorder.ports[f"{name}>{other}"]
            lines.append(f"{other}: 127.0.0.1:{port}")
        (folder / "parties.yaml").write_text("\n".join(lines) + "\n")

    def start_party(self, name: str, **variables: str) -> subprocess.Popen[str]:
        """Starts a server; `ready` waits for it."""
        self.parties[name] = subprocess.Popen(
            [*CLI, "encrypted", "party", name, "--folder", str(self.scratch / f"host-{name}")],
            env={**self.environment, **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self.parties[name]

    def ready(self, *names: str) -> None:
        """Waits until these servers are ready."""
        for name in names:
            stdout = self.parties[name].stdout
            assert stdout is not None
            line = stdout.readline()
            assert "ready on" in line, (line, self.parties[name].communicate())

    def carried(self, name: str) -> dict[str, dict[str, int]]:
        """Bytes that a server counted, by peer and direction."""
        stdout = self.parties[name].stdout
        assert stdout is not None
        self.parties[name].send_signal(signal.SIGUSR1)
        start = f"{name}: bytes "
        line = next(line for line in stdout if line.startswith(start))
        found: dict[str, dict[str, int]] = json.loads(line[len(start) :])
        return found

    def start_driver(self) -> None:
        """Starts a driver in the place of an earlier one."""
        self.driver = subprocess.Popen(
            driving.command(self.scratch / "host-driver"),
            env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, **request: Any) -> Any:
        """The driver's answer."""
        assert self.driver is not None and self.driver.stdin is not None and self.driver.stdout is not None
        self.driver.stdin.write(json.dumps(request) + "\n")
        self.driver.stdin.flush()
        line = self.driver.stdout.readline()
        assert line, self.driver.communicate()
        return json.loads(line)

    def store(self, name: str) -> Path:
        """The store of a running server."""
        (found,) = self.runs.glob(f"*/{name}-*")
        return found / "store"

    def put(self, stem: Path, three: tuple[shares.Ring, ...]) -> None:
        """Gives each server the two shares that it holds."""
        for number, name in enumerate(SERVERS):
            put_held(self.store(name), stem, three, number)

    def answer(self, batch: str, shape: tuple[int, ...]) -> list[shares.Held]:
        """What each server holds of the answer."""
        return [held_answer(self.store(name), batch, shape) for name in SERVERS]

    def close(self) -> None:
        """Ends everything, and sees that nothing is left."""
        for process in (self.driver, *self.parties.values()):
            if process is not None and process.poll() is None:
                process.terminate()
        for process in (self.driver, *self.parties.values()):
            if process is not None:
                process.communicate(timeout=30)
        self.recorder.stop()
        assert left_after(self.mark) == {}
        shutil.rmtree(self.runs)


def put_held(store: Path, stem: Path, three: tuple[shares.Ring, ...], server: int) -> None:
    """Writes what one server holds into its store."""
    for number, share in enumerate(shares.held(three, server)):
        path = store / shares.half(stem, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(shares.to_bytes(share))


def held_answer(store: Path, batch: str, shape: tuple[int, ...]) -> shares.Held:
    """What one server holds of the answer to a batch."""
    first, second = (
        shares.from_bytes((store / shares.half(shares.output_stem(batch), number)).read_bytes(), shape)
        for number in range(2)
    )
    return first, second


def expected(model: PrivateModel, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits in plain NumPy."""
    found: NDArray[np.float64] = reference.evaluate(model, {model.inputs[0].name: inputs})[model.output]
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port
