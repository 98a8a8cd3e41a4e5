"""A MariaDB server for a test, with a database and a user of ML Metadata's."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PASSWORD = "of-the-test"


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where it listens; database and user are `mlmd`."""

    port: int
    socket: str

    def ask(self, statement: str, *, database: str = "") -> str:
        """What the server answers to a statement of its administrator, a row a line."""
        found = program("mariadb")
        assert found is not None
        command = [found, "--no-defaults", "-u", "root", "-S", self.socket, "-N", "-B", "-e", statement]
        command += [database] if database else []
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def program(name: str) -> str | None:
    """Path of one of MariaDB's programs; Debian keeps the server off the search path of most users."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


def missing() -> str:
    """Why there is no server: the first program that is not there; empty where all are."""
    needed = ("mariadbd", "mariadb-install-db", "mariadb")
    return next(
        (f"{name} is not installed: apt-get install mariadb-server" for name in needed if not program(name)), ""
    )


def _demote() -> None:
    os.setgid(65534)
    os.setuid(65534)


@contextmanager
def server() -> Iterator[Server]:
    """A server on a free port of the loopback, started as an unprivileged user."""
    as_nobody = _demote if os.getuid() == 0 else None
    daemon, install = program("mariadbd"), program("mariadb-install-db")
    assert daemon is not None and install is not None, missing()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket() as probe:
        os.chmod(folder, 0o777)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        data = f"--datadir={folder}/data"
        quiet = {"check": True, "capture_output": True, "preexec_fn": as_nobody, "cwd": "/"}
        subprocess.run([install, "--no-defaults", data, "--auth-root-authentication-method=normal"], **quiet)
        where = [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder}/socket", f"--pid-file={folder}/pid"]
        with open(f"{folder}/log", "w") as log:
            command = [daemon, "--no-defaults", data, *where]
            running = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=as_nobody, cwd="/")
        try:
            found = Server(port=port, socket=f"{folder}/socket")
            _wait_for(found, Path(f"{folder}/log"))
            found.ask("CREATE DATABASE mlmd")
            found.ask(f"CREATE USER mlmd@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'")
            found.ask("GRANT ALL ON mlmd.* TO mlmd@'127.0.0.1'")
            yield found
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(timeout=60)


def _wait_for(found: Server, log: Path) -> None:
    for _ in range(300):
        try:
            found.ask("SELECT 1")
            return
        except subprocess.CalledProcessError:
            time.sleep(0.2)
    raise RuntimeError(log.read_text())
