"""A second user of the host reads nothing and changes nothing, whatever the umask of the first one is."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.federated.experiments.experiment_files import write_experiment, write_people
from tests.hosts.project import Project, processes_of, write_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SCRIPT = (Path(__file__).with_name("second_user.py")).read_text()
PASSWORD = "canary-of-the-first-user-5d1e"
SHOWN = {"schema.pbtxt", "plain.yaml", "config.yaml", "small.yaml", "people.pbtxt"}  # what the test wrote for everybody
PIN = "data/ledger_pin.json"
LISTENING = "0A"


@dataclass(frozen=True)
class Finished:
    """All that the first user did, and what was seen of it meanwhile.

    Attributes:
        project: the project; its home and its place for temporary files lie below the root.
        before: what the test wrote.
        seen: what the second user saw while it ran: files that it could read, and facts of processes.
        listened: addresses of TCP on which a process of the first user's listened.
    """

    project: Project
    before: frozenset[Path]
    seen: tuple[str, ...]
    listened: frozenset[str]

    def written(self) -> list[Path]:
        """Files and folders that the commands made; the folder of a run's temporary files is everybody's."""
        everybodys = {self.project.root / "tmp"}
        return sorted({*self.project.root.rglob("*")} - self.before - everybodys)


def _do_all(project: Project) -> None:
    """Each kind of command that writes something."""
    project.done("init", "data/span-1/train/rows.csv", "--label", "bought", "--to", "started")
    project.done("budget", "init", "things", "--output", "things.policy.yaml")
    project.done("budget", "register", "config.yaml", "--epsilon", "10")
    project.done("run", "config.yaml")
    project.done("audit", project.run_id(), "--mechanism")
    project.done("budget", "backup", "backups/ledger.backup")
    project.done("budget", "report", "config.yaml", "--output", "reports/report.html")
    project.done("budget", "publish", "config.yaml", "published")
    project.done("budget", "export", "--output", "entries.jsonl")
    project.done("encrypted", "init-parties", "parties")
    project.done("encrypted", "add-client", "analyst", "--parties", "parties")
    project.done("federated", "run", "small.yaml")


@contextmanager
def _watched(as_other: list[str], root: Path, seen: list[str], listened: set[str]) -> Iterator[None]:
    """Lets the second user look, and notes who listens, while the block runs."""
    task = json.dumps({"watch": str(root), "words": [PASSWORD]})
    looking = subprocess.Popen(
        [*as_other, "-c", SCRIPT, task], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    over = threading.Event()

    def listen() -> None:
        while not over.is_set():
            listened.update(_listening(root))
            time.sleep(0.3)

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        said, _ = looking.communicate()
    assert looking.returncode == 0
    seen += json.loads(said)


def _listening(root: Path) -> set[str]:
    """Addresses of TCP on which a process that works for a folder listens, in the host's own network namespace."""
    inodes = set()
    for pid in processes_of(root):
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return {cells[1] for cells in lines if cells[3] == LISTENING and cells[9] in inodes}


@pytest.fixture(scope="module", params=[0o022, 0o000], ids=["umask 022", "umask 000"])
def finished(request: pytest.FixtureRequest, as_other: list[str], open_folder: Callable[[], Path]) -> Finished:
    root = open_folder()
    (root / "home").mkdir(mode=0o755)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    places = {"HOME": str(root / "home"), "TMPDIR": str(root / "tmp"), "PGPASSWORD": PASSWORD}
    # Nothing of the tests' own: histories and links lie in the user's home.
    unset = {name: "" for name in ("PRIVACY_PIPELINE_HISTORIES", "XDG_DATA_HOME", "PRIVACY_PIPELINE_LEDGER_KEY")}
    project = Project(root, umask=request.param, environment=places | unset)
    write_project(root)
    write_people(root, train=30, evaluation=10)
    for file in (root / "people").rglob("*.csv"):
        file.chmod(0o600)
    path = write_experiment(root)
    text = path.read_text().replace("seeds: [1, 2]", "seeds: [1]").replace("rounds: 6", "rounds: 2")
    path.write_text(text.replace("algorithm:\n", "algorithm:\n  engine: tff\n"))
    before = frozenset(root.rglob("*"))
    seen: list[str] = []
    listened: set[str] = set()
    with _watched(as_other, root, seen, listened):
        _do_all(project)
    return Finished(project, before, tuple(seen), frozenset(listened))


def test_the_second_user_can_do_nothing_to_what_was_written(finished: Finished, as_other: list[str]) -> None:
    written = finished.written()
    kinds = {
        "ledger.db",
        "ledger_key.pem",
        "saved_model.pb",
        "run.json",
        "report.html",
        "ledger.backup",
        "parties.yaml",
    }
    assert len(written) > 200 and kinds <= {path.name for path in written}
    tried = [*written, *finished.project.root.rglob("*.csv"), *Path("/dev/shm").glob("privacy-pipeline-0/**")]
    deepest_first = sorted(map(str, tried), key=len, reverse=True)
    answer = subprocess.run(
        [*as_other, "-c", SCRIPT, "{}"], input=json.dumps(deepest_first), capture_output=True, text=True, check=True
    )
    # The pin says which ledger the data belongs to: a user who can look into the data's folder can read it.
    assert json.loads(answer.stdout) == {f"{finished.project.root}/{PIN}": ["read"]}


def test_what_the_second_user_tries_would_be_found(as_other: list[str], open_folder: Callable[[], Path]) -> None:
    """The script finds what it looks for, where there is something to be found."""
    root = open_folder()
    (root / "open").mkdir()
    (root / "open").chmod(0o777)
    (root / "open/file").write_text(PASSWORD)
    (root / "open/file").chmod(0o666)
    (root / "shut").mkdir(mode=0o700)
    paths = [str(root / name) for name in ("open/file", "open", "shut")]
    answer = subprocess.run(
        [*as_other, "-c", SCRIPT, "{}"], input=json.dumps(paths), capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(answer.stdout)
    assert {"read", "write", "move"} <= set(found[paths[0]]) and "add to" in found[paths[1]]
    assert paths[2] not in found


def test_the_second_user_sees_nothing_of_a_run_in_progress(finished: Finished) -> None:
    assert "a process" in finished.seen  # it looked while commands ran
    root = str(finished.project.root)
    files = {one.removeprefix(f"{root}/") for one in finished.seen if one != "a process"}
    assert files <= {*SHOWN, PIN}, files - SHOWN


def test_no_process_of_a_run_can_be_called_by_others(finished: Finished) -> None:
    assert finished.listened == set()
