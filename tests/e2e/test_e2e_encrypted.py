"""A pipeline whose eval split is predicted through real parties: what its record says, and that nothing outlives it."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from privacy_pipeline.encrypted import run_folder
from privacy_pipeline.encrypted.model.threat_model import deployed_for_evaluation, on_one_host
from privacy_pipeline.encrypted.worker.parties import SERVERS
from tests.encrypted.deployment import APART, make_parties, on_hosts
from tests.encrypted.processes import left_after, marked, running

if TYPE_CHECKING:
    from tests.e2e.conftest import Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
_CONFIG = "configs/plain.yaml"
_DEADLINE = 1500.0
_WORKER = "privacy_pipeline.encrypted.worker.party_server"


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """Carried by all that the command starts."""
    found, environment = marked()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture(autouse=True)
def stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the parties of the test have their folders; not in the scratch folder, as a Unix socket's path is short."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    monkeypatch.setenv(run_folder.VARIABLE, str(folder))
    yield folder
    shutil.rmtree(folder)


def files_in(stores: Path) -> set[str]:
    return {path.name for path in stores.rglob("*") if path.is_file()}


@pytest.fixture
def through_parties(new_project: Callable[[], Project], mark: str) -> Project:
    project = new_project()
    make_parties(project.root / "parties")
    way = "backend: encrypted\n  encrypted: {parties: parties}"
    project.edit(_CONFIG, "backend: plain", way)
    return project


def evaluation_of(project: Project) -> dict:
    (path,) = (project.root / "workspace").rglob("encrypted_evaluation.json")
    found: dict = json.loads(path.read_text())
    return found


def test_the_split_is_predicted_through_parties(through_parties: Project, mark: str, stores: Path) -> None:
    ended = through_parties.cli("run", _CONFIG, "--json", timeout=_DEADLINE)
    assert ended.code == 0, ended.text
    assert left_after(mark) == {}
    # A driver that takes too long to end is killed, and its empty folder is left for the next one to remove.
    assert files_in(stores) <= {".lock"}
    found = evaluation_of(through_parties)
    assert found["rows"] == 600 and found["agreement"] >= 0.999 and 0 < found["largest_logit_error"] < 0.01
    assert found["threat_model"] == on_one_host().model_dump(mode="json")
    assert [one["batch"] for one in found["batches"]] == [1, 128, 1024]
    assert {one["bytes_counted_by"] for one in found["batches"]} == {"tunnels"}
    assert all(one["build_seconds"] > 0 and one["seconds"] > 0 and one["rounds"] > 2 for one in found["batches"])
    sent = [one["bytes_per_call"] for one in found["batches"]]
    assert 0 < sent[0] < sent[1] < sent[2]
    assert ended.json["summary"]["record"]["inference_protection"] == "simulated"
    assert len(through_parties.pushed()) == 1  # PrivacyGate let it pass


def test_servers_of_other_hosts_are_found_and_left_running(through_parties: Project, mark: str) -> None:
    """Other names of this machine stand for other hosts."""
    on_hosts(through_parties.root / "parties", APART)
    ended = through_parties.cli("run", _CONFIG, timeout=_DEADLINE)
    assert ended.code == 1 and "server0 is not reached" in ended.text and "Traceback" not in ended.text
    processes = [through_parties.start("encrypted", "party", name, "--parties", "parties") for name in SERVERS]
    try:
        limit = time.monotonic() + _DEADLINE
        while output_of(through_parties).count("ready on") < len(SERVERS):
            assert time.monotonic() < limit and not any(one.poll() for one in processes), output_of(through_parties)
            time.sleep(0.2)
        (run,) = through_parties.runs()
        ended = through_parties.cli("resume", run["run_id"], "--json", timeout=_DEADLINE)
        assert ended.code == 0, ended.text
        assert [one.poll() for one in processes] == [None] * len(SERVERS)
    finally:
        for one in processes:
            one.terminate()
        codes = [one.wait(60) for one in processes]
    assert codes == [0] * len(SERVERS) and left_after(mark) == {}
    assert ended.json["summary"]["record"]["inference_protection"] == "encrypted"
    found = evaluation_of(through_parties)
    assert found["agreement"] >= 0.999 and found["threat_model"] == deployed_for_evaluation().model_dump(mode="json")
    assert {one["bytes_counted_by"] for one in found["batches"]} == {"graph"}
    assert len(through_parties.pushed()) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_of_a_party_outlives_the_command(
    through_parties: Project, mark: str, stores: Path, number: signal.Signals
) -> None:
    process = through_parties.start("run", _CONFIG)
    try:
        limit = time.monotonic() + _DEADLINE
        while sum(_WORKER in line for line in running(mark).values()) < 3:  # TensorFlow of each server
            assert time.monotonic() < limit and process.poll() is None, output_of(through_parties)
            time.sleep(0.2)
        process.send_signal(number)
        assert process.wait(60) != 0
        assert left_after(mark, seconds=30) == {}
    finally:
        process.kill()
        process.wait()
    with run_folder.run_folder("next"):  # what a killed party left in memory goes as soon as another one starts
        assert [path.name for path in run_folder.base_folder().iterdir() if not path.name.startswith("next-")] == []


def output_of(project: Project) -> str:
    return Path(project.root / "output.txt").read_text()
