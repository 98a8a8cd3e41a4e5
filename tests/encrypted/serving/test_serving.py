"""`serve --local` and `predict` with real parties: right answers, errors in time, recovery, and nothing left."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from privacy_pipeline.backends import keras_io
from privacy_pipeline.backends.encrypted import PRIVATE_MODEL, PUBLISHED
from privacy_pipeline.encrypted import run_folder
from privacy_pipeline.encrypted.client import rows
from privacy_pipeline.encrypted.client.client import Client
from privacy_pipeline.encrypted.model import model_format, published, reference
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.encrypted.transport.dialing import addresses
from privacy_pipeline.errors import PipelineError
from tests.backends.conftest import PLAN, Split, split  # noqa: F401 (a fixture)
from tests.encrypted.deployment import make_parties
from tests.encrypted.processes import left_after, marked, running
from tests.encrypted.programs.networks import mlp
from tests.encrypted.real_parties import CLI

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]  # TensorFlow starts anew after every kill, on all cores
KILLS = int(os.environ.get("PRIVACY_PIPELINE_TEST_KILLS", "6"))
READY_SECONDS = 600.0
TOLERANCE = 1e-3


class Served:
    """A service of this machine in a process of its own, and what to ask it."""

    def __init__(self, folder: Path, model: PrivateModel) -> None:
        self.folder, self.model = folder, model
        self.parties = make_parties(folder / "parties")
        self.mark, self.environment = marked()
        # Not in the scratch folder: the path of a Unix socket is short.
        self.runs = Path(tempfile.mkdtemp(dir="/dev/shm"))
        self.environment |= {run_folder.VARIABLE: str(self.runs)}
        self.log = folder / "serve.log"
        command = ["encrypted", "serve", str(folder / "model"), "--parties", str(self.parties), "--local"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*CLI, *command, "--buckets", "1,16"], env=self.environment, stdout=log, stderr=log
            )

    @property
    def ready_times(self) -> int:
        """How often the service became ready."""
        return sum(line.endswith(" ready") for line in self.log.read_text().splitlines())

    def until_ready(self, times: int) -> None:
        """Waits until the service has become ready so often."""
        limit = time.monotonic() + READY_SECONDS
        while self.ready_times < times:
            assert time.monotonic() < limit and self.process.poll() is None, self.log.read_text()[-2000:]
            time.sleep(0.2)

    def pid_of(self, *words: str) -> int | None:
        """A process of this service whose command line has these words.

        It is not the one that closed the namespace and started it with the same words: stopped, that hands out no more
        sockets, and where no new ones are needed the service goes on as if nothing had happened.
        """
        for pid, line in running(self.mark).items():
            named = set(re.split(r"[\s'(),]+", line))  # a module's name stands in quotes: runpy.run_module('a.b')
            if named.issuperset(words) and "privacy_pipeline.encrypted.sandbox.inside" not in named:
                return pid
        return None

    def client(self, *, seconds: float = 100.0) -> Client:
        """A client."""
        return Client(
            folder=self.parties / "prediction-client",
            addresses=addresses(self.parties),
            published=published.load(self.parties / published.FOLDER),
            seconds=seconds,
        )

    def close(self) -> None:
        """Ends it as a person would, and sees that nothing is left."""
        if self.process.poll() is None:
            self.process.terminate()
        assert self.process.wait(60) == 0, self.log.read_text()[-2000:]
        assert left_after(self.mark) == {}
        # A driver that takes too long to end is killed, and its empty folder is left for the next one to remove.
        assert {path.name for path in self.runs.rglob("*") if path.is_file()} <= {".lock"}
        shutil.rmtree(self.runs)


@pytest.fixture(scope="module")
def served(
    encrypted_python: Path,
    split: Split,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    width = keras_io.input_specs(split.transform_graph)["features"].shape[0]
    model = mlp([width, 8, 1], name="features")
    private = folder / "model" / PRIVATE_MODEL
    model_format.save(model, private)
    published.publish(
        private_model=private, features=PLAN, transform_graph=split.transform_graph, folder=folder / "model" / PUBLISHED
    )
    service = Served(folder, model)
    try:
        service.until_ready(1)
        yield service
    finally:
        service.close()


def client_file(path: Path, split: Split, count: int) -> Path:  # noqa: F811
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["colour", "size"])
        table.writerows(
            [row["colour"].decode(), "" if row["size"] is None else row["size"]] for row in split.raw[:count]
        )
    return path


def in_the_clear(served: Served, inputs: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    return reference.evaluate(served.model, inputs)[served.model.output]


def test_predict_writes_what_the_model_says(served: Served, split: Split, tmp_path: Path) -> None:  # noqa: F811
    file = client_file(tmp_path / "rows.csv", split, 50)
    command = ["encrypted", "predict", str(file), "--parties", str(served.parties), "--out", str(tmp_path / "p.csv")]
    done = subprocess.run([*CLI, *command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and '"rows": 50' in done.stdout, done.stderr
    assert '"inference_protection": "simulated"' in done.stdout
    with (tmp_path / "p.csv").open() as stream:
        found = list(csv.DictReader(stream))
    public = published.load(served.parties / published.FOLDER)
    expected = in_the_clear(served, rows.transform(rows.check(file=file, published=public), published=public)).ravel()
    np.testing.assert_allclose([float(row["logit(yes)"]) for row in found], expected, atol=TOLERANCE)
    np.testing.assert_allclose(
        [float(row["probability(yes)"]) for row in found], 1 / (1 + np.exp(-expected)), atol=TOLERANCE
    )
    assert [row["line"] for row in found] == [str(line) for line in range(2, 52)]


def test_a_bad_row_is_named_and_nothing_is_sent(served: Served, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("colour,size\nred,inf\n")
    command = ["encrypted", "predict", str(tmp_path / "rows.csv"), "--parties", str(served.parties)]
    done = subprocess.run([*CLI, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"error: {tmp_path / 'rows.csv'}:2: column 'size': 'inf' is not a finite number" in done.stderr


VICTIMS = (
    ("party", "server0"),
    ("party", "server1"),
    ("party", "server2"),
    ("privacy_pipeline.encrypted.worker.party_server", "server1"),
    ("privacy_pipeline.encrypted.serving.driving",),
    ("privacy_pipeline.encrypted.worker.driver",),
    ("provide-weights",),
)


def test_kills_under_load_make_no_wrong_answer(served: Served) -> None:
    """Parties, a TensorFlow server and the driver are killed or stopped while clients predict."""
    choice, told = random.Random(1), []
    width = served.model.inputs[0].shape[0]

    async def load(number: int, ending: asyncio.Event) -> int:
        answered = 0
        while not ending.is_set():
            inputs = {"features": np.random.default_rng([number, answered]).normal(size=(choice.randint(1, 30), width))}
            began = time.monotonic()
            try:
                found = await served.client().predict(inputs, progress=lambda rows: None)
                np.testing.assert_allclose(found, in_the_clear(served, inputs), atol=TOLERANCE)
                answered += 1
            except PipelineError as error:
                told.append(error.message)
                await asyncio.sleep(1)
            assert time.monotonic() - began < 150
        return answered

    async def main() -> None:
        ending = asyncio.Event()
        clients = [asyncio.ensure_future(load(number, ending)) for number in range(2)]
        try:
            for number in range(KILLS):
                await asyncio.sleep(choice.uniform(0, 3))
                ready = served.ready_times
                victim = VICTIMS[number % len(VICTIMS)]
                pid = served.pid_of(*victim)
                assert pid is not None, victim
                os.kill(pid, choice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP]))
                if victim != ("provide-weights",):
                    await asyncio.to_thread(served.until_ready, ready + 1)
                assert not any(client.done() for client in clients)
        finally:
            ending.set()
            answered = await asyncio.gather(*clients)
        assert min(answered) > 0

    asyncio.run(main())
    assert told


def test_a_killed_service_leaves_nothing(served: Served, tmp_path: Path) -> None:
    """Its parties end with it, however it ends."""
    (tmp_path / "model").symlink_to(served.folder / "model")
    other = Served(tmp_path, served.model)
    try:
        other.until_ready(1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            other.process.kill()
        other.process.wait()
    assert left_after(other.mark) == {}
    shutil.rmtree(other.runs)
