"""A run whose ledger and ML Metadata lie on servers that ask for a password: no file, table or process shows it."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.ledger import postgresql_server
from tests.pipelines import mariadb_server

if TYPE_CHECKING:
    from tests.e2e.conftest import Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
LEDGER = "canary-of-the-ledger-7f3a"


def _arguments(found: set[str], done: threading.Event, canaries: tuple[str, str]) -> None:
    """Arguments of processes that hold one, as any user of the host may read them."""
    while not done.is_set():
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                said = path.read_bytes().decode(errors="replace")
            except OSError:
                continue
            found |= {said for canary in canaries if canary in said}
        time.sleep(0.1)


def test_no_output_of_a_run_holds_a_password(
    new_project: Callable[[], Project], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if postgresql_server.program("initdb") is None or mariadb_server.missing():
        pytest.skip("PostgreSQL or MariaDB is not installed")
    project, of_metadata = new_project(), mariadb_server.PASSWORD
    monkeypatch.setenv("PGPASSWORD", LEDGER)
    monkeypatch.setenv("TEST_OF_METADATA", of_metadata)
    monkeypatch.setenv("PRIVACY_PIPELINE_LEDGER_KEY", str(project.root / "key.pem"))
    done, shown = threading.Event(), set[str]()
    watch = threading.Thread(target=_arguments, args=(shown, done, (LEDGER, of_metadata)))
    with postgresql_server.server(password=LEDGER) as url, mariadb_server.server() as server:
        monkeypatch.setenv("TMPDIR", str(tmp_path))  # whose files are searched, too
        block = {"kind": "mysql", "host": "127.0.0.1", "port": server.port, "database": "mlmd", "user": "mlmd"}
        path = project.root / "configs/dp.yaml"
        metadata = json.dumps({**block, "password_env": "TEST_OF_METADATA"})
        path.write_text(path.read_text() + f"metadata: {metadata}\nledger: {url}\n")
        watch.start()
        ended = [project.cli("budget", "register", "configs/dp.yaml", "--epsilon", "10")]
        ended += [project.cli("run", "configs/dp.yaml", "--json"), project.cli("check", "configs/dp.yaml")]
        ended += [project.cli("runs", "--json"), project.cli("show", "adult-dp", "--json")]
        ended += [project.cli("budget", "report", "configs/dp.yaml", "--output", "-")]
        # What fails: the wrong password of each server, and the metadata server gone in the middle.
        monkeypatch.setenv("TEST_OF_METADATA", of_metadata + "-wrong")
        ended += [project.cli("--debug", "run", "configs/dp.yaml", "--no-cache")]
        monkeypatch.setenv("TEST_OF_METADATA", of_metadata)
        monkeypatch.setenv("PGPASSWORD", LEDGER + "-wrong")
        ended += [project.cli("--debug", "run", "configs/dp.yaml", "--no-cache")]
        done.set()
        watch.join()
        dumps = [
            subprocess.run(
                [str(postgresql_server.program("pg_dump")), url],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "PGPASSWORD": LEDGER},
            ).stdout,
            *(
                server.ask(f"SELECT * FROM `{name}`", database="mlmd")
                for name in server.ask("SHOW TABLES", database="mlmd").split()
            ),
        ]
    assert [command.code for command in ended] == [0, 0, 0, 0, 0, 0, 2, 1], [c.out + c.err for c in ended]
    texts = [command.out + command.err for command in ended] + dumps + [*shown]
    written = [found for root in (project.root, tmp_path) for found in root.rglob("*") if found.is_file()]
    assert len(written) > 50 and len(dumps[0]) > 5_000 and "adult-dp" in "".join(dumps[1:])
    for canary in (LEDGER, of_metadata):
        assert not [text[:300] for text in texts if canary in text]
        assert not [found for found in written if canary.encode() in found.read_bytes()]
