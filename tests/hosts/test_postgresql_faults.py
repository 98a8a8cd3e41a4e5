"""The server of a ledger dies, or is cut off, in the middle of a transaction: nothing is lost, and others go on."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from privacy_pipeline.ledger.audit.verify import verify
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.storage.schema import LedgerError
from tests.hosts.postgresql import Server, server
from tests.hosts.project import Project, wait_for, write_project
from tests.ledger.conftest import make_registration
from tests.ledger.postgresql_server import program
from tests.ledger.test_kills import COUNTED, on_statement, reads, run_once, touched

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(program("initdb") is None, reason="PostgreSQL is not installed"),
]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def killed_server() -> Iterator[Server]:
    with server() as made:
        yield made


def test_a_server_that_is_killed_in_mid_transaction_loses_nothing(
    killed_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL for the server and all of its processes right before and after each commit of a run, and elsewhere."""
    monkeypatch.setenv("PRIVACY_PIPELINE_LEDGER_KEY", str(tmp_path / "key.pem"))
    url, log = killed_server.url, tmp_path / "reads"
    Ledger.open(url, create=True).register(make_registration(), epsilon=1000.0, delta=1e-5)
    touch = partial(touched, log)
    run_once(Ledger.open(url), "first", touch)  # stores what equal runs share
    whole = Ledger.open(url)
    statements = on_statement(whole, 0, lambda: None)
    run_once(whole, "whole", touch)
    assert "commit" in statements and len(statements) > 10
    commits = [at for at, what in enumerate(statements, 1) if what == "commit"]
    around = {at + one for at in commits for one in (0, 1)} - {len(statements) + 1}
    numbers = sorted(around | set(random.Random(7).sample(range(1, len(statements) + 1), 8)))
    refused = 0
    for at in numbers:
        ledger = Ledger.open(url)
        before = ledger.status("adult")[0].spent_epsilon
        on_statement(ledger, at, killed_server.restart)
        try:
            run_once(ledger, f"run-{at}", touch)
        except LedgerError as error:
            refused += 1
            assert len(error.message.splitlines()) == 1 and "nothing was granted" in error.fix
        after = Ledger.open(url)
        status = after.status("adult")[0]
        assert sum(status.entries[state] for state in COUNTED) >= reads(log)
        assert status.spent_epsilon >= before
        assert verify(after._engine, reprice=False).problems == []
    assert refused > len(numbers) // 2
    last = Ledger.open(url)
    run_once(last, "run-1", touch)  # goes on with what was reserved, or starts again
    assert verify(last._engine).problems == []


@dataclass(frozen=True)
class Host:
    """A network namespace with a user's folder in it.

    Attributes:
        name: of the namespace.
        project: whose commands run in there.
        link: its end of the cable, in the database's namespace.
        address: its own.
    """

    name: str
    project: Project
    link: str
    address: str

    @property
    def prefix(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]

    def spend(self, run_id: str, *, hold: Path | None = None) -> subprocess.Popen[str]:
        """Starts a run under the ledger; with `hold`, it waits for that file in the middle of its reservation."""
        arguments = [str(REPOSITORY), _url(self.project), run_id, "" if hold is None else str(hold)]
        return subprocess.Popen(
            [*self.prefix, sys.executable, "-c", SPEND, *arguments],
            cwd=self.project.root,
            env=os.environ | self.project.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@dataclass(frozen=True)
class Hosts:
    """Two hosts, and the namespace of the database between them."""

    one: Host
    other: Host
    database: str

    def ip(self, *words: str) -> None:
        """Changes the database's namespace."""
        subprocess.run(["ip", "-n", self.database, *words], check=True, capture_output=True)


# A run's part in the ledger, as the trainer plays it; the data that it would read is a file of marks.
SPEND = """
import sys, time
from pathlib import Path
repository, url, run_id, hold = sys.argv[1:]
sys.path.insert(0, repository)
import sqlalchemy as sa
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.errors import PipelineError
from tests.ledger.conftest import make_plan
from tests.ledger.test_kills import touched

ledger = Ledger.open(url)
registration = ledger.registration("things", 1)
plan = make_plan(50.0, units=registration.splits["train"].units, relation=registration.relation)
written = []

def pause(connection, *details):
    written.append(details[1])
    if hold and len([one for one in written if one.startswith("INSERT")]) == 1 and written[-1].startswith("INSERT"):
        Path(hold + ".held").touch()
        while not Path(hold).exists():
            time.sleep(0.05)

sa.event.listen(ledger._engine, "before_cursor_execute", pause)
try:
    with ledger.spend(
        dataset="things", span=1, data_digest=registration.digest, split="train", run_id=run_id, node="Trainer",
        plan=plan,
    ) as grant:
        grant.start()
        touched(Path("reads"))
        grant.commit(plan.event)
except PipelineError as error:
    print(f"error: {error.message}", file=sys.stderr)
    sys.exit(int(error.exit_code))
"""


def _url(project: Project) -> str:
    return project.environment["URL"]


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces with cables between them need root and iproute2")
    tag = uuid.uuid4().hex[:6]
    database, names = f"pp-db-{tag}", [f"pp-h1-{tag}", f"pp-h2-{tag}"]
    made: list[str] = []
    try:
        for name in (database, *names):
            try:
                _run("ip", "netns", "add", name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: {error.stderr!r}")
            made.append(name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "-n", database, "address", "add", "10.77.0.1/32", "dev", "lo")
        for number, name in enumerate(names, 1):
            _run(*f"ip -n {database} link add h{number} type veth peer name eth0 netns {name}".split())
            _run(*f"ip -n {database} address add 10.77.{number}.1/24 dev h{number}".split())
            _run(*f"ip -n {database} link set h{number} up".split())
            _run(*f"ip -n {name} address add 10.77.{number}.2/24 dev eth0".split())
            _run(*f"ip -n {name} link set eth0 up".split())
            _run(*f"ip -n {name} route add default via 10.77.{number}.1".split())
        with server(address="10.77.0.1", prefix=["ip", "netns", "exec", database]) as running:
            found = [_host(tmp_path, running.url, number, name) for number, name in enumerate(names, 1)]
            yield Hosts(found[0], found[1], database)
    finally:
        for name in made:
            _run("ip", "netns", "delete", name)


def _host(tmp_path: Path, url: str, number: int, name: str) -> Host:
    root = tmp_path / f"host{number}"
    root.mkdir()
    write_project(root)
    with open(root / "config.yaml", "a") as config:
        config.write(f"ledger: {url}\n")
    (root / "keys").mkdir(mode=0o700)
    environment = {"PRIVACY_PIPELINE_LEDGER_KEY": str(root / "keys/ledger_key.pem"), "URL": url}
    return Host(name, Project(root, environment=environment), f"h{number}", f"10.77.{number}.2")


@pytest.mark.parametrize("cut", ["the link goes down", "nothing comes through"])
def test_two_hosts_share_a_ledger_and_one_is_cut_off_in_its_reservation(hosts: Hosts, cut: str) -> None:
    one, other = hosts.one, hosts.other
    registered = one.project.cli("budget", "register", "config.yaml", "--epsilon", "10", prefix=one.prefix)
    assert registered.code == 0, registered.text
    for file in (one.project.root / "keys").iterdir():  # the second client of a ledger is given its keys
        shutil.copy(file, other.project.root / "keys")
    for host, run_id in ((one, "first-of-one"), (other, "first-of-other")):
        process = host.spend(run_id)
        assert process.communicate()[1] == "" and process.returncode == 0
    before = _status(other)
    assert _status(one) == before and before["entries"]["committed"] == 2

    hold = one.project.root / "go on"
    cut_off = one.spend("cut-off", hold=hold)
    wait_for("a reservation that holds the lock", Path(f"{hold}.held").exists, cut_off)
    if cut == "the link goes down":
        hosts.ip("link", "set", one.link, "down")
    else:
        hosts.ip("route", "add", "blackhole", one.address)
    waiting = other.spend("waits-for-the-lock")
    hold.touch()
    _, said = cut_off.communicate(timeout=180)
    (line,) = said.strip().splitlines()
    assert cut_off.returncode == 1 and line.startswith(f"error: ledger {_shown(one)}: "), said
    _, said = waiting.communicate(timeout=180)
    assert waiting.returncode == 0, said  # the server let go of the lock of the host that was gone
    alone = one.project.cli("budget", "status", "--ledger", _url(one.project), prefix=one.prefix)
    assert alone.code == 1 and alone.error.startswith(f"error: ledger {_shown(one)}: "), alone.text

    if cut == "the link goes down":
        hosts.ip("link", "set", one.link, "up")
    else:
        hosts.ip("route", "delete", "blackhole", one.address)
    assert not (one.project.root / "reads").read_text().count("x") > 1  # the one that was cut off read nothing
    again = one.spend("cut-off")
    assert again.communicate()[1] == "" and again.returncode == 0
    after = _status(one)
    assert after["entries"]["committed"] == 4 and after["spent_epsilon"] > before["spent_epsilon"]
    assert _status(other) == after
    for host in (one, other):
        verified = host.project.cli("budget", "verify", "--ledger", _url(host.project), prefix=host.prefix)
        assert verified.code == 0, verified.text


def _shown(host: Host) -> str:
    return _url(host.project).replace("postgresql:", "postgresql+psycopg:")


def _status(host: Host) -> dict[str, dict[str, int]]:
    told = host.project.cli("budget", "status", "--json", "--ledger", _url(host.project), prefix=host.prefix)
    assert told.code == 0, told.text
    (status,) = json.loads(told.out)
    found: dict[str, dict[str, int]] = status
    return found
