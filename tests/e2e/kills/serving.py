"""What is killed of encrypted inference: the service with its parties, and its clients."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from privacy_pipeline.backends import keras_io
from privacy_pipeline.backends.encrypted import PRIVATE_MODEL, PUBLISHED
from privacy_pipeline.encrypted import run_folder
from privacy_pipeline.encrypted.model import model_format, published
from tests.backends.conftest import PLAN, Split
from tests.e2e.kills import victims
from tests.e2e.kills.commands import CLI, Ended, Place
from tests.encrypted.deployment import make_parties
from tests.encrypted.processes import left_after, marked
from tests.encrypted.programs.networks import mlp

SERVE = ("encrypted", "serve", "model", "--parties", "parties", "--local", "--buckets", "1,16")
_READY = " ready\n"
_ROWS = 20
_SECONDS = 600.0


def make_service(base: Path, split: Split) -> None:
    """A model as it is served, with keys and addresses of all parties."""
    width = keras_io.input_specs(split.transform_graph)["features"].shape[0]
    model_format.save(mlp([width, 8, 1], name="features"), base / "model" / PRIVATE_MODEL)
    published.publish(
        private_model=base / "model" / PRIVATE_MODEL,
        features=PLAN,
        transform_graph=split.transform_graph,
        folder=base / "model" / PUBLISHED,
    )
    make_parties(base / "parties")


class Serving:
    """The service of a machine, until it is ready; then it is told to end."""

    name, until, who = "serve", _READY, victims.WHO

    def __init__(self, base: Path, split: Split) -> None:
        self._base = base
        make_service(base, split)

    def fresh(self, root: Path) -> None:
        shutil.copytree(self._base, root)

    def first(self, chance: random.Random) -> tuple[str, ...]:
        return SERVE

    def after(self, place: Place, args: tuple[str, ...]) -> tuple[str, ...]:
        return args

    def is_over(self, ended: Ended) -> bool:
        return ended.code == 0

    def problems(self, place: Place, ended: Ended) -> Iterator[str]:
        yield from ()


class Prediction:
    """A client of a service that lives on."""

    name, until, who = "predict", "", ("command", "all")

    def __init__(self, base: Path, split: Split) -> None:
        make_service(base, split)
        lines = [f"{row['colour'].decode()},{'' if row['size'] is None else row['size']}" for row in split.raw[:_ROWS]]
        (base / "rows.csv").write_text("\n".join(["colour,size", *lines]) + "\n")
        self._base, self._log = base, base.with_name("serve.log")
        self._mark, environment = marked()
        self._memory = Path(tempfile.mkdtemp(dir="/dev/shm"))
        environment |= {run_folder.VARIABLE: str(self._memory)}
        with self._log.open("w") as log:
            self._service = subprocess.Popen([CLI, *SERVE], cwd=base, stdout=log, stderr=log, env=environment)
        limit = time.monotonic() + _SECONDS
        while _READY not in self._log.read_text():
            assert self._service.poll() is None and time.monotonic() < limit, self._log.read_text()
            time.sleep(0.2)

    def close(self) -> None:
        """Ends the service, of which nothing is left."""
        self._service.terminate()
        assert self._service.wait(_SECONDS) == 0, self._log.read_text()
        assert left_after(self._mark) == {}
        shutil.rmtree(self._memory)

    def fresh(self, root: Path) -> None:
        root.mkdir(parents=True)
        shutil.copy(self._base / "rows.csv", root)
        shutil.copytree(self._base / "parties", root / "parties")

    def first(self, chance: random.Random) -> tuple[str, ...]:
        return ("encrypted", "predict", "rows.csv", "--parties", "parties", "--out", "p.csv")

    def after(self, place: Place, args: tuple[str, ...]) -> tuple[str, ...]:
        return args

    def is_over(self, ended: Ended) -> bool:
        return ended.code == 0

    def problems(self, place: Place, ended: Ended) -> Iterator[str]:
        found = place.root / "p.csv"
        if found.exists() and len(found.read_text().splitlines()) != _ROWS + 1:
            yield "a part of the predictions was written"
        if ended.code == 0 and not found.exists():
            yield "no predictions were written"
        if self._service.poll() is not None:
            yield f"the service ended: {os.linesep.join(self._log.read_text().splitlines()[-3:])}"
