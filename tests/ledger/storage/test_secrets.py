"""A password that is where it may be (environment, password file, key) is in nothing that commands write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from privacy_pipeline.cli.terminal import Unbroken
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.ledger.ledger import Ledger
from tests.ledger.conftest import make_registration
from tests.ledger.postgresql_server import program, server

CANARY = "canary-of-the-ledger-7f3a"
ROOT = Path(__file__).parents[3]
# Registers a dataset, then takes commands, all in one process.
SCRIPT = """
import json, os, sys
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.cli.main import app
from tests.ledger.conftest import make_registration
url = sys.argv[1]
Ledger.open(url, create=True).register(make_registration(), epsilon=3.0, delta=1e-5)
codes = []
for command in json.loads(sys.argv[2]):
    if command[0] == "wrong":
        os.environ["PGPASSWORD"], url, command = sys.argv[3], url.partition("?")[0], command[1:]
    try:
        app(["budget", *command, "--ledger", url])
    except SystemExit as ended:
        codes.append(ended.code or 0)
print(codes)
"""
COMMANDS = (
    ["status", "--json"],
    ["history", "--all", "--dataset", "adult"],
    ["verify"],
    ["status", "no"],
    ["wrong", "status"],
)


@pytest.fixture(scope="module")
def asking() -> Iterator[str]:
    """URL of a server that asks for the canary."""
    if program("initdb") is None:
        pytest.skip("PostgreSQL is not installed")
    with server(password=CANARY) as url:
        yield url


def _environment(folder: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    here = {"PRIVACY_PIPELINE_LEDGER_KEY": str(folder / "key.pem"), "HOME": str(folder), "TMPDIR": str(folder)}
    return {**kept, "PYTHONPATH": str(ROOT), **here, **more}


def _said(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow_but("variable")
@pytest.mark.parametrize("way", ["variable", "file", "query"])
def test_nothing_that_a_ledger_on_a_server_writes_holds_its_password(asking: str, way: str, tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    secrets = home / "pgpass"
    secrets.write_text(f"*:*:*:*:{CANARY}\n")
    secrets.chmod(0o600)
    given = {"variable": {"PGPASSWORD": CANARY}, "file": {"PGPASSFILE": str(secrets)}, "query": {}}[way]
    admin = asking.replace("postgresql:", "postgresql+psycopg:").replace("@", f":{CANARY}@")
    engine = sa.create_engine(admin, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE of_{way}")
    engine.dispose()
    url = asking.rsplit("/", 1)[0] + f"/of_{way}" + (f"?passfile={secrets}" if way == "query" else "")
    command = [sys.executable, "-c", SCRIPT, url, json.dumps(COMMANDS), f"{CANARY}-wrong"]
    code, said = _said(command, work, _environment(work, **given))
    assert code == 0 and "[0, 0, 0, 2, 1]" in said, said
    assert "password authentication failed" in said and CANARY not in said
    written = [path for path in work.rglob("*") if path.is_file()]
    assert written and not [path for path in written if CANARY.encode() in path.read_bytes()]
    with psycopg.connect(admin.replace("+psycopg", "").rsplit("/", 1)[0] + f"/of_{way}") as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        stored = [str(connection.execute(f'SELECT * FROM "{name}"').fetchall()) for (name,) in tables]  # type: ignore[call-overload]
    assert len(stored) > 3 and CANARY not in "".join(stored)


def test_the_private_key_in_the_place_of_its_path_is_not_shown(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----"
    for given in (pem, pem * 20):
        monkeypatch.setenv("PRIVACY_PIPELINE_LEDGER_KEY", given)
        with pytest.raises(PipelineError, match="key") as caught:
            ledger.register(make_registration("other"), epsilon=1.0, delta=1e-5)
        assert CANARY not in str(caught.value) + caught.value.fix


def test_a_traceback_masks_the_password_of_a_driver(tmp_path: Path) -> None:
    body = (
        "from privacy_pipeline.cli import last_handler\n"
        "def command():\n"
        f"    import sqlalchemy; raise ValueError(str(sqlalchemy.make_url('postgresql://u@h/?password={CANARY}')))\n"
        "last_handler.run(command)"
    )
    for arguments in ([], ["--debug"]):
        command = [sys.executable, "-c", body, *arguments]
        code, said = _said(command, tmp_path, _environment(tmp_path, PGPASSWORD=CANARY))
        assert code == 1 and CANARY not in said and "***" in said
    (log,) = tmp_path.glob("*.log")
    assert CANARY not in log.read_text() and "***" in log.read_text()


def test_standard_output_masks(tmp_path: Path) -> None:
    with open(tmp_path / "out", "w") as stream:
        assert Unbroken(stream).write(f"postgresql://u:{CANARY}@h/db\n") == 46
    assert (tmp_path / "out").read_text() == "postgresql://u:***@h/db\n"
