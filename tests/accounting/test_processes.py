"""Real processes: races for the last of a budget, and deaths at every state, on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from privacy_pipeline.accounting.ledger import Ledger
from privacy_pipeline.accounting.ledger_entries import State
from tests.accounting.conftest import make_plan, make_registration

ROOT = Path(__file__).parents[2]
NOISE = 5.0
WORKER = """
import os, signal, sys
from privacy_pipeline.accounting.ledger import Ledger
from privacy_pipeline.errors import BudgetRefusedError
from tests.accounting.conftest import DIGEST, make_plan, make_registration
url, role, run_id, noise = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
plan = make_plan(noise)
plan_event = plan.event
print("ready", flush=True)
sys.stdin.readline()
if role == "create":
    Ledger.open(url, create=True).register(make_registration(), epsilon=3.0, delta=1e-5)
    sys.exit()
ledger = Ledger.open(url)
granted = 0
for number in range(100 if role == "race" else 1):
    name = f"{run_id}-{number}" if role == "race" else run_id
    try:
        with ledger.spend(dataset="adult", span=None, data_digest=DIGEST, split="train", run_id=name,
                          node="trainer", plan=plan) as grant:
            if role == "die-reserved":
                os.kill(os.getpid(), signal.SIGKILL)
            grant.start()
            if role == "die-started":
                os.kill(os.getpid(), signal.SIGKILL)
            grant.commit(plan_event)
            if role == "die-committed":
                os.kill(os.getpid(), signal.SIGKILL)
            granted += 1
    except BudgetRefusedError:
        break
print(granted)
"""


class Worker:
    """A process that waits for a word before it acts."""

    def __init__(self, url: str, role: str, run_id: str, noise: float = NOISE) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, url, role, run_id, str(noise)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def wait_until_ready(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def result(self) -> tuple[int, str]:
        out, err = self._process.communicate(timeout=120)
        assert "Traceback" not in err, err
        return self._process.returncode, out.strip()


def together(workers: list[Worker]) -> list[tuple[int, str]]:
    for worker in workers:
        worker.wait_until_ready()
    for worker in workers:
        worker.go()
    return [worker.result() for worker in workers]


def demote() -> None:
    """PostgreSQL refuses to run as root."""
    os.setgid(65534)
    os.setuid(65534)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """URL of a PostgreSQL server of this test's own."""
    initdb, postgres = shutil.which("initdb"), shutil.which("postgres")
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL is not installed")
    as_nobody = demote if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        os.chmod(folder, 0o777)
        data = f"{folder}/data"
        initialise = [initdb, "-D", data, "-U", "ledger", "-A", "trust", "--no-sync"]
        subprocess.run(initialise, check=True, capture_output=True, preexec_fn=as_nobody, cwd="/")
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        serve = [postgres, "-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", folder]
        # A server whose default isolation is stricter than the ledger's: the ledger sets its own.
        serve += ["-c", "default_transaction_isolation=repeatable read"]
        with open(f"{folder}/log", "w") as log:
            server = subprocess.Popen(serve, stdout=log, stderr=log, preexec_fn=as_nobody, cwd="/")
        try:
            check = ["pg_isready", "-h", "127.0.0.1", "-p", str(port), "-t", "1"]
            ready = any(subprocess.run(check, capture_output=True).returncode == 0 or _pause() for _ in range(100))
            assert ready, Path(f"{folder}/log").read_text()
            yield f"postgresql://ledger@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=30)


def _pause() -> bool:
    import time

    time.sleep(0.2)
    return False


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database without a ledger."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger/ledger.db"
    import sqlalchemy as sa

    url: str = request.getfixturevalue("postgresql")
    name = "db_" + "".join(letter for letter in tmp_path.name.lower() if letter.isalnum())
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return url.rsplit("/", 1)[0] + f"/{name}"


@pytest.fixture
def ready(fresh: str) -> str:
    """URL of a ledger with one dataset and a cap of epsilon 3."""
    Ledger.open(fresh, create=True).register(make_registration(), epsilon=3.0, delta=1e-5)
    return fresh


def test_processes_that_create_at_once_make_one_ledger(fresh: str) -> None:
    results = together([Worker(fresh, "create", "-") for _ in range(4)])
    assert [code for code, _ in results] == [0] * 4
    (status,) = Ledger.open(fresh).status()
    assert status.cap_epsilon == 3.0


def test_a_race_for_the_last_of_the_budget_never_overspends(ready: str) -> None:
    ledger = Ledger.open(ready)
    alone = ledger.forecast(make_plan(NOISE), dataset="adult", span=None, split="train").runs_that_fit
    assert alone >= 5
    results = together([Worker(ready, "race", f"racer-{number}") for number in range(4)])
    (status,) = ledger.status()
    assert sum(int(out) for _, out in results) == status.entries[State.COMMITTED] == alone
    assert status.spent_epsilon <= 3.0
    after = ledger.forecast(make_plan(NOISE), dataset="adult", span=None, split="train")
    assert not after.fits


def test_two_live_processes_of_one_run_never_share_a_charge(ready: str) -> None:
    results = together([Worker(ready, "once", "the-same-run", 10.0) for _ in range(4)])
    ledger = Ledger.open(ready)
    trained = sum(int(out) for _, out in results)
    assert 1 <= trained == sum(entry.state is State.COMMITTED for entry in ledger.entries("adult"))


@pytest.mark.parametrize(
    ("role", "state", "counts_for_ever"),
    [
        ("die-reserved", State.RESERVED, False),
        ("die-started", State.STARTED, True),
        ("die-committed", State.COMMITTED, True),
    ],
)
def test_a_process_that_is_killed(ready: str, role: str, state: State, counts_for_ever: bool) -> None:
    ((code, _),) = together([Worker(ready, role, "victim")])
    assert code == -signal.SIGKILL
    ledger = Ledger.open(ready)
    (entry,) = ledger.entries("adult")
    assert entry.state is state
    assert ledger.status()[0].spent_epsilon == entry.epsilon > 0
    assert ledger.expire_reserved("victim") == (0 if counts_for_ever else 1)
    assert (ledger.status()[0].spent_epsilon > 0) == counts_for_ever
    ((code, out),) = together([Worker(ready, "once", "victim")])
    assert (code, out) == (0, "1")
    assert ledger.entries("adult")[-1].attempt == 2


def test_a_retry_after_death_goes_on_with_the_reservation(ready: str) -> None:
    together([Worker(ready, "die-reserved", "victim")])
    ((code, out),) = together([Worker(ready, "once", "victim")])
    assert (code, out) == (0, "1")
    (entry,) = Ledger.open(ready).entries("adult")
    assert (entry.state, entry.attempt) == (State.COMMITTED, 1)
