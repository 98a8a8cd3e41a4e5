"""A PostgreSQL server for a test or a benchmark, started as an unprivileged user, since it refuses root."""

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
from pathlib import Path


def program(name: str) -> str | None:
    """Path of one of PostgreSQL's programs; Debian keeps them off the search path."""
    places = os.pathsep.join([os.environ.get("PATH", ""), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])
    return shutil.which(name, path=places)


def _demote() -> None:
    os.setgid(65534)
    os.setuid(65534)


@contextmanager
def server(*, password: str | None = None) -> Iterator[str]:
    """URL of a server on a free port of the loopback; durable as PostgreSQL's own defaults are.

    Args:
        password: that it asks for; None for one that asks for none.
    """
    as_nobody = _demote if os.getuid() == 0 else None
    initdb, postgres, ready = program("initdb"), program("postgres"), program("pg_isready")
    if initdb is None or postgres is None or ready is None:
        raise SystemExit("PostgreSQL is not installed: apt-get install postgresql")
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        os.chmod(folder, 0o777)
        data = f"{folder}/data"
        initialise = [initdb, "-D", data, "-U", "ledger", "-A", "trust", "--no-sync"]
        if password is not None:
            Path(folder, "password").write_text(password)
            initialise += ["-A", "scram-sha-256", f"--pwfile={folder}/password"]
        subprocess.run(initialise, check=True, capture_output=True, preexec_fn=as_nobody, cwd="/")
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        serve = [postgres, "-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", folder]
        # A server whose default isolation is stricter than the ledger's: the ledger sets its own.
        serve += ["-c", "default_transaction_isolation=repeatable read"]
        with open(f"{folder}/log", "w") as log:
            running = subprocess.Popen(serve, stdout=log, stderr=log, preexec_fn=as_nobody, cwd="/")
        try:
            check = [ready, "-h", "127.0.0.1", "-p", str(port), "-t", "1"]
            for _ in range(100):
                if subprocess.run(check, capture_output=True).returncode == 0:
                    break
                time.sleep(0.2)
            else:
                raise RuntimeError(Path(f"{folder}/log").read_text())
            yield f"postgresql://ledger@127.0.0.1:{port}/postgres"
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(timeout=30)
