"""A command in a closed namespace: what it sees, what reaches it, and that it ends with whoever started it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.encrypted import run_folder
from privacy_pipeline.encrypted.sandbox import environment, inside
from privacy_pipeline.encrypted.sandbox.sandbox import Sandbox
from privacy_pipeline.encrypted.server import party
from privacy_pipeline.encrypted.transport.certificates import init_parties
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.processes import namespaces
from tests.encrypted.issuing import reissued
from tests.encrypted.processes import left_after, marked, running

INSIDE, OUTSIDE = 5001, 5002
SERVES = f"""
import json, os, socket, time
def tried(what):
    try:
        return what()
    except OSError as error:
        return error.strerror
with socket.create_server(("0.0.0.0", {INSIDE})) as server:
    while True:
        peer, _ = server.accept()
        status = open("/proc/self/status").read()
        with peer, socket.create_connection(("127.0.0.1", {OUTSIDE})) as out:
            out.sendall(b"from inside")
            peer.sendall(json.dumps(dict(
                interfaces=socket.if_nameindex(), here=os.listdir("."), hidden=os.listdir(os.environ["HIDDEN"]),
                capabilities=status.split("CapEff:")[1].split()[0], keys=tried(lambda: os.listdir(
                    f"/proc/{{os.environ['OUTER']}}/root/")), elsewhere=tried(lambda: socket.create_connection(
                    ("127.0.0.1", int(os.environ["LISTENS"])), 2)), address=tried(lambda: socket.create_connection(
                    ("192.0.2.1", 80), 2)))).encode())
"""


def found_inside(tmp_path: Path, body: Callable[[Sandbox], Awaitable[Any]], **variables: str) -> Any:
    """What `body` finds out about a command that serves at INSIDE."""
    work = tmp_path / "secret" / "work"
    work.mkdir(parents=True)
    (work / "share").write_text("")

    async def main() -> Any:
        sandbox = await Sandbox.start(
            [sys.executable, "-c", SERVES],
            ports=[OUTSIDE],
            hidden=[tmp_path / "secret"],
            folder=work,
            environment={**environment.variables(), "HIDDEN": str(tmp_path / "secret"), **variables},
        )
        try:
            return await body(sandbox)
        finally:
            await sandbox.close()

    return asyncio.run(main())


async def reached(sandbox: Sandbox) -> Any:
    """A connection to the command, once it listens."""
    for _ in range(200):
        try:
            return await sandbox.connect(INSIDE)
        except OSError:
            await asyncio.sleep(0.05)
    raise AssertionError("it does not listen")


def test_there_is_a_loopback_and_nothing_else(tmp_path: Path) -> None:
    async def look(sandbox: Sandbox) -> Any:
        loop = asyncio.get_running_loop()
        listener = sandbox.listeners[OUTSIDE]
        listener.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=await reached(sandbox))
        peer, _ = await loop.sock_accept(listener)
        assert await loop.sock_recv(peer, 100) == b"from inside"
        peer.close()
        found = json.loads(await asyncio.wait_for(reader.read(), 10))
        writer.close()
        return found

    server = subprocess.Popen(
        [sys.executable, "-c", "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); "
         "print(s.getsockname()[1], flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with server:
        assert server.stdin is not None and server.stdout is not None
        port = server.stdout.readline().strip()
        found = found_inside(tmp_path, look, OUTER=str(os.getpid()), LISTENS=port)
        server.stdin.close()
    assert found == {
        "interfaces": [[1, "lo"]],
        "here": ["share"],  # its own folder, though what is around it is hidden
        "hidden": [],
        "capabilities": "0" * 16,
        "keys": "Permission denied",
        "elsewhere": "Connection refused",
        "address": "Network is unreachable",
    }


def test_the_host_does_not_reach_the_command(tmp_path: Path) -> None:
    async def look(sandbox: Sandbox) -> None:
        (await reached(sandbox)).close()
        for port in (INSIDE, OUTSIDE):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)

    found_inside(tmp_path, look)


KEEPS = """
import asyncio, os, sys
from pathlib import Path
from privacy_pipeline.encrypted.sandbox.sandbox import Sandbox
async def main():
    kept = await Sandbox.start([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"],
        ports=[1], hidden=[], folder=Path("."), environment=os.environ)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize("killed", ["outer", "launcher", "command"])
def test_all_processes_end_when_one_is_killed(tmp_path: Path, killed: str) -> None:
    mark, variables = marked()
    script = KEEPS if killed == "outer" else KEEPS.replace("asyncio.sleep(600)", "kept.process.wait()")
    outer = subprocess.Popen(
        [sys.executable, "-c", script], env={**environment.variables(), **variables}, stdout=subprocess.PIPE, text=True
    )
    with outer:
        assert outer.stdout is not None and outer.stdout.readline() == "up\n"
        pids = running(mark)
        assert len(pids) == 3
        kinds = {"outer": outer.pid}
        kinds["launcher"] = next(pid for pid, line in pids.items() if "encrypted.sandbox.inside" in line)
        kinds["command"] = next(pid for pid in pids if pid not in kinds.values())
        os.kill(kinds[killed], signal.SIGKILL)
        assert left_after(mark) == {}


def test_without_namespaces_nothing_is_run(tmp_path: Path) -> None:
    """In a namespace of which the kernel allows no further one."""
    script = f"""
import asyncio, os, sys
from pathlib import Path
from privacy_pipeline.encrypted.sandbox.sandbox import Sandbox
from privacy_pipeline.errors import PipelineError
Path("/proc/sys/user/max_user_namespaces").write_text("0")
try:
    asyncio.run(Sandbox.start([sys.executable, "-c", "open({str(tmp_path / "ran")!r}, 'w')"], ports=[1], hidden=[],
        folder=Path("."), environment=os.environ))
except PipelineError as error:
    print(error.message, "FIX", error.fix)
"""
    done = subprocess.run(
        ["unshare", "-r", sys.executable, "-c", script],
        env=environment.variables(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("no namespace of its own to be had: unshare: ") and namespaces.FIX in done.stdout
    time.sleep(0.2)
    assert not (tmp_path / "ran").exists()


def test_a_worker_program_refuses_to_run_with_a_network() -> None:
    with pytest.raises(PipelineError, match="the network namespace is not closed: it has lo, "):
        inside.require_loopback_only()


def test_folders_of_killed_processes_are_removed_and_those_in_use_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "base_folder", lambda: tmp_path)
    old = tmp_path / "server0-old"
    old.mkdir()
    (old / ".lock").touch()
    half = tmp_path / "server1-half"  # the process that removed it was killed
    (half / "store").mkdir(parents=True)
    (half / "store/shares").touch()
    with run_folder.run_folder("server0") as first, run_folder.run_folder("server0") as second:
        assert not old.exists() and not half.exists() and first.exists() and first.stat().st_mode & 0o777 == 0o700
        assert first != second
    assert list(tmp_path.iterdir()) == []


def test_the_base_folder_is_not_taken_from_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(run_folder.tempfile, "gettempdir", lambda: str(tmp_path))
    found = run_folder.base_folder()
    assert found.parent == tmp_path and found.stat().st_mode & 0o777 == 0o700
    found.chmod(0o755)
    with pytest.raises(PipelineError, match="this user alone") as caught:
        run_folder.base_folder()
    assert "PRIVACY_PIPELINE_STORES=" in caught.value.fix  # /dev/shm lets nobody remove what is another user's


def test_a_party_does_not_start_with_a_certificate_that_is_of_no_use(tmp_path: Path) -> None:
    init_parties(folder=tmp_path / "p")
    assert party.load(name="server1", folder=tmp_path / "p").folder == tmp_path / "p" / "server1"
    expired = reissued(tmp_path / "p", tmp_path, "server1", role="server1", days=-0.5)
    with pytest.raises(PipelineError, match="expired, or not valid yet"):
        party.load(name="server1", folder=expired)
    with pytest.raises(BadInputError, match="there is no party 'server3'"):
        party.load(name="server3", folder=expired)
    (expired / "server1" / "certificate.pem").write_text("")
    with pytest.raises(PipelineError, match="not usable"):
        party.load(name="server1", folder=expired)
    with pytest.raises(BadInputError, match="driver is not a server"):
        asyncio.run(party.serve(party.load(name="driver", folder=expired), report=print))
