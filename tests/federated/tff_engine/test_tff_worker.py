"""No worker outlives its command. Looked up in the process list."""

import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from federated.tff_engine import closed
from federated.tff_engine import worker as worker_module
from federated.tff_engine.worker import TffWorker
from privacy_pipeline.encrypted.run_folder import base_folder
from privacy_pipeline.errors import PipelineError

ROOT = Path(__file__).parents[3]
START = """
    import signal, sys, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a keyboard; a shell's background job ignores it
    from federated.tff_engine.worker import TffWorker
    worker = TffWorker(timeout=60)
    worker.start()
    print(worker.pid, flush=True)
"""
ENDS = {"returns": "", "raises": "raise RuntimeError", "stays": "time.sleep(600)"}


def is_worker(pid: int) -> bool:
    """Whether the process is there (a zombie is not) and is TFF's worker, or about to become it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False
    return state != "Z" and b"worker_binary" in command


def command(ending: str) -> subprocess.Popen:
    code = textwrap.dedent(START) + ENDS[ending]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while is_worker(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_worker(pid)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "kill"),
    [
        ("stays", signal.SIGKILL),
        pytest.param("stays", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("stays", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("returns", None, marks=pytest.mark.slow),
        pytest.param("raises", None, marks=pytest.mark.slow),
    ],
)
def test_no_worker_outlives_its_command(ending, kill):
    process = command(ending)
    pid = int(process.stdout.readline())
    if kill is not None:
        assert is_worker(pid)
        process.send_signal(kill)
    assert process.wait(timeout=60) == (-kill if kill in (signal.SIGKILL, signal.SIGTERM) else process.returncode)
    assert process.stdout.read() == ""  # nobody holds the pipe
    assert gone(pid)


@pytest.fixture
def worker():
    with TffWorker() as started:
        yield started


@pytest.fixture
def impatient_worker():
    with TffWorker(timeout=2.0) as started:
        yield started


def doubled(value):
    import tensorflow_federated as tff

    return tff.tensorflow.computation(lambda x: x * 2, tff.TensorType(np.int32))(value)


def test_a_dead_worker_is_one_error(worker):
    with worker.call():
        assert doubled(4) == 8
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(PipelineError, match="ended with status -9"), worker.call():
        doubled(4)


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended_in_time(impatient_worker):
    os.kill(impatient_worker.pid, signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(PipelineError, match="did not answer within 2 s"), impatient_worker.call():
        doubled(4)
    assert time.monotonic() - begin < 20
    assert gone(impatient_worker.pid)


def _listening_of_everybody() -> set[str]:
    """Addresses that any user of the host, or of its network, may connect to: local address and port, hexadecimal."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return {cells[1] for cells in lines if cells[3] == "0A"}


def test_nobody_else_reaches_the_worker_which_runs_any_graph_that_it_is_sent():
    before = _listening_of_everybody()
    with TffWorker() as worker, worker.call():
        assert doubled(4) == 8
        ports = {address.partition(":")[2] for address in _listening_of_everybody() - before}
        for port in ports:  # other programs of the host may have begun to listen
            with socket.socket() as asked:
                asked.connect(("127.0.0.1", int(port, 16)))
                asked.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
                asked.settimeout(2)
                assert not _answer(asked).startswith(bytes(2)), f"a gRPC server answers on port {int(port, 16)}"
        (path,) = base_folder().glob("tff-*/socket")
        for place in (path.parent, path.parent.parent):
            assert stat.S_IMODE(place.stat().st_mode) == 0o700


def _answer(asked: socket.socket) -> bytes:
    try:
        return asked.recv(100)
    except OSError:
        return b""


def test_where_the_kernel_gives_no_namespace_the_worker_is_not_run(monkeypatch):
    refusing = f"import sys; sys.stderr.write('no namespace of its own to be had'); sys.exit({closed.REFUSED})"
    monkeypatch.setattr(worker_module, "command_of", lambda module: [sys.executable, "-c", refusing])
    worker = TffWorker()
    with pytest.raises(PipelineError, match="no namespace of its own to be had") as told:
        worker.start()
    assert "engine: fast" in told.value.fix and "user namespaces" in told.value.fix
    worker.close()


def test_closing_ends_it_and_may_be_done_twice():
    worker = TffWorker()
    with pytest.raises(PipelineError, match="is not running"), worker.call():
        pass
    worker.start()
    pid = worker.pid
    assert is_worker(pid)
    worker.close()
    worker.close()
    assert not is_worker(pid)
