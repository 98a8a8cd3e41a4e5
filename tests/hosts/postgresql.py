"""A PostgreSQL server that can be killed and started again on the same data, in a network namespace too."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.ledger.postgresql_server import program

_NOBODY = 65534


class Server:
    """A server on data of its own.

    Attributes:
        url: of its database, at the address that it listens on.
    """

    def __init__(self, folder: Path, *, address: str, prefix: Sequence[str]) -> None:
        self._folder, self._address, self._prefix = folder, address, prefix
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"postgresql://ledger@{address}:{self._port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and waits until it answers; after a kill, it recovers what was committed."""
        assert self._process is None
        postgres, ready = program("postgres"), program("pg_isready")
        assert postgres is not None and ready is not None
        command = [*self._prefix, *_as_nobody(), postgres, "-D", f"{self._folder}/data", "-p", str(self._port)]
        command += ["-c", f"listen_addresses={self._address}", "-k", str(self._folder)]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", start_new_session=True)
        for _ in range(600):
            asked = [ready, "-h", str(self._folder), "-p", str(self._port), "-t", "1"]
            if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError((self._folder / "log").read_text())

    def kill(self) -> None:
        """SIGKILL for the server and each of its processes, as where the machine loses its power."""
        assert self._process is not None
        children = _descendants(self._process.pid)
        for pid in (self._process.pid, *children):
            os.kill(pid, signal.SIGKILL)
        self._process.wait()
        while any(Path(f"/proc/{pid}").exists() and not _is_zombie(pid) for pid in children):
            time.sleep(0.02)
        self._process = None

    def restart(self) -> None:
        """Kills it and starts it again."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """Ends it, if it runs."""
        if self._process is not None:
            self.kill()


@contextmanager
def server(*, address: str = "127.0.0.1", prefix: Sequence[str] = ()) -> Iterator[Server]:
    """A server that is started.

    Args:
        address: that it listens on, and lets everybody in from.
        prefix: of its command, such as one that enters a network namespace.
    """
    initdb = program("initdb")
    assert initdb is not None
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    folder.chmod(0o777)
    initialise = [*_as_nobody(), initdb, "-D", f"{folder}/data", "-U", "ledger", "-A", "trust", "--no-sync"]
    subprocess.run(initialise, check=True, capture_output=True, cwd="/")
    with open(folder / "data/pg_hba.conf", "a") as rules:
        rules.write("host all all 0.0.0.0/0 trust\n")
    made = Server(folder, address=address, prefix=prefix)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _as_nobody() -> list[str]:
    """PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]


def _descendants(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found += [int(stat.parent.name), *_descendants(int(stat.parent.name))]
    return found


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
