"""A project folder of its own for each scenario, and the command line run in it as a subprocess.

A run of the pipeline costs half a minute of processor time, so finished runs are shared by the session, and what needs
runs of its own goes through `in_background`, two at a time.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from privacy_pipeline.cli.main import app

CLI = str(Path(sys.executable).with_name("privacy-pipeline"))
REPOSITORY = Path(__file__).parents[2]
TRAIN_ROWS = 1_200
EVAL_ROWS = 600

_PLAIN = """\
# A comment.
pipeline: adult-plain
dataset:
  name: adult
  path: data/adult
  schema: configs/schemas/adult.pbtxt
  label: income
  positive_class: ">50K"
  privacy_unit: row
model:
  hidden_units: [8]
training:
  backend: plain
  epochs: 1
  batch_size: 100
  seed: 1
evaluation:
  slices: [sex]
  thresholds:
    accuracy: {min: 0.1}
"""
_DP = (
    _PLAIN.replace("adult-plain", "adult-dp").replace("  seed: 1\n", "").replace("backend: plain", "backend: dp_sgd")
).replace(
    "  batch_size: 100\n",
    "  batch_size: 400\n  dp_sgd:\n    target_epsilon: 3.0\n    delta: 1.0e-5\n    clipping_norm: 1.0\n",
)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def text(self) -> str:
        """All that was printed, blanks and line breaks folded: where a line wraps is not what is tested."""
        return " ".join(f"{self.out} {self.err}".split())


@dataclass(frozen=True)
class Project:
    """A user's folder: configs, data, workspace and ledger."""

    root: Path

    @property
    def train(self) -> Path:
        return self.root / "data/adult/span-1/train/adult.csv"

    @property
    def eval(self) -> Path:
        return self.root / "data/adult/span-1/eval/adult.csv"

    @property
    def schema(self) -> Path:
        return self.root / "configs/schemas/adult.pbtxt"

    def cli(self, *args: str, prefix: Sequence[str] = (), timeout: float = 1_000) -> Ended:
        """Runs the command line here and waits for it."""
        began = time.monotonic()
        done = subprocess.run(
            [*prefix, CLI, *args], cwd=self.root, capture_output=True, text=True, timeout=timeout, check=False
        )
        return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - began)

    def done(self, *args: str) -> Ended:
        """Like `cli`, for a command that has to end with 0."""
        ended = self.cli(*args)
        assert ended.code == 0, ended.out + ended.err
        return ended

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Starts the command line and does not wait; its output goes to output.txt."""
        with open(self.root / "output.txt", "a") as output:
            return subprocess.Popen(
                [CLI, *args], cwd=self.root, stdout=output, stderr=output, text=True, preexec_fn=_interruptible
            )

    def edit(self, file: Path | str, old: str, new: str, count: int = 1) -> None:
        """Replaces a text that has to be there."""
        path = self.root / file
        text = path.read_text()
        assert old in text, f"{old!r} is not in {path}"
        path.write_text(text.replace(old, new, count))

    def set_cell(self, file: Path, line: int, column: str, value: str) -> None:
        """Writes one value into a CSV file; `line` is the line of the file."""
        rows = file.read_text().splitlines()
        cells = rows[line - 1].split(",")
        cells[rows[0].split(",").index(column)] = value
        rows[line - 1] = ",".join(cells)
        file.write_text("\n".join(rows) + "\n")

    def runs(self) -> list[dict[str, Any]]:
        """What `runs --json` lists."""
        found: list[dict[str, Any]] = self.done("runs", "--json").json
        return found

    def run_json(self, run_id: str) -> dict[str, Any]:
        """The state of a run as it lies on disk."""
        state: dict[str, Any] = json.loads((self.root / "workspace/runs" / run_id / "run.json").read_text())
        return state

    def pushed(self, pipeline: str = "adult-plain") -> list[Path]:
        """The pushed models of a pipeline."""
        folder = self.root / "workspace/pushed" / pipeline
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def entries(self) -> list[str]:
        """States of the ledger's entries, oldest first."""
        path = self.root / "ledger/ledger.db"
        if not path.exists():
            return []
        with sqlite3.connect(path, timeout=30) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            return [state for (state,) in connection.execute("SELECT state FROM entries ORDER BY id")]

    def budget(self) -> dict[str, Any]:
        """The one budget of `budget status --json`."""
        (status,) = self.done("budget", "status", "--json").json
        found: dict[str, Any] = status
        return found

    def published(self) -> list[dict[str, Any]]:
        """RunMetrics of all runs by a plain ML Metadata query, in a process that imports nothing of ours."""
        query = (
            "import json, sys\n"
            "from ml_metadata.metadata_store import metadata_store\n"
            "from ml_metadata.proto import metadata_store_pb2\n"
            "config = metadata_store_pb2.ConnectionConfig()\n"
            "config.sqlite.filename_uri = sys.argv[1]\n"
            "rows = metadata_store.MetadataStore(config).get_artifacts_by_type('RunMetrics')\n"
            "value = lambda v: getattr(v, v.WhichOneof('value'))\n"
            "print(json.dumps([{k: value(v) for k, v in r.properties.items()} for r in rows]))\n"
        )
        rows: list[dict[str, Any]] = json.loads(python(query, str(self.root / "workspace/metadata.db")))
        return rows

    def statuses(self, run_id: str) -> dict[str, str]:
        """Status of each node of a run."""
        nodes = self.done("show", run_id, "--json").json["run"]["nodes"]
        return {name: node["status"] for name, node in nodes.items()}


@dataclass(frozen=True)
class InProcess(Project):
    """A project whose commands run in the process of the tests, which has imported them already."""

    def cli(self, *args: str, prefix: Sequence[str] = (), timeout: float = 1_000) -> Ended:
        assert not prefix
        began, before = time.monotonic(), os.getcwd()
        os.chdir(self.root)
        try:
            done = CliRunner().invoke(app, list(args), catch_exceptions=False)
        finally:
            os.chdir(before)
        return Ended(done.exit_code, done.stdout, done.stderr, time.monotonic() - began)


def _interruptible() -> None:
    """Ctrl-C reaches a command, also where the tests themselves run in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def python(script: str, *args: str) -> str:
    """Runs a script in a Python of its own, and gives what it printed."""
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Shared:
    """A project with one finished plain run and one finished DP run; tests may add runs, not change files."""

    project: Project
    plain: Ended
    dp: Ended

    @property
    def plain_id(self) -> str:
        return str(self.plain.json["run"]["run_id"])

    @property
    def dp_id(self) -> str:
        return str(self.dp.json["run"]["run_id"])


@pytest.fixture(scope="session")
def run_python() -> Callable[..., str]:
    return python


@pytest.fixture(scope="session")
def full_adult(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `data adult` writes."""
    project = Project(tmp_path_factory.mktemp("adult"))
    project.done("data", "adult")
    return project.root / "data/adult"


@pytest.fixture(scope="session")
def new_project(tmp_path_factory: pytest.TempPathFactory, full_adult: Path) -> Callable[[], Project]:
    """Makes a project with a sample of Adult; nothing was run in it, nothing is registered."""

    def make() -> Project:
        project = Project(tmp_path_factory.mktemp("project"))
        for split, rows in (("train", TRAIN_ROWS), ("eval", EVAL_ROWS)):
            part = Path(f"span-1/{split}/adult.csv")
            target = project.root / "data/adult" / part
            target.parent.mkdir(parents=True)
            lines = (full_adult / part).read_text().splitlines(keepends=True)
            target.write_text("".join(lines[: rows + 1]))
        project.schema.parent.mkdir(parents=True)
        shutil.copy(REPOSITORY / "configs/schemas/adult.pbtxt", project.schema)
        (project.root / "configs/plain.yaml").write_text(_PLAIN)
        (project.root / "configs/dp.yaml").write_text(_DP)
        return project

    return make


@pytest.fixture
def project(new_project: Callable[[], Project]) -> Project:
    return new_project()


@pytest.fixture(scope="session")
def in_process() -> Callable[[Project], Project]:
    """Give the same project with commands that run in this process."""
    return lambda project: InProcess(project.root)


@pytest.fixture(scope="session")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=max(2, (os.cpu_count() or 2) // 2)) as executor:
        yield executor


class Background:
    """Scenarios by name that run side by side; a test waits for its own by `.result()`."""

    def __init__(
        self, pool: ThreadPoolExecutor, scenarios: Mapping[str, Callable[[], Any]], later: Sequence[str]
    ) -> None:
        self._pool, self._scenarios = pool, scenarios
        self._started = {name: pool.submit(run) for name, run in scenarios.items() if name not in later}

    def __getitem__(self, name: str) -> Future[Any]:
        """A scenario; one that was left for later starts when it is first asked for."""
        if name not in self._started:
            self._started[name] = self._pool.submit(self._scenarios[name])
        return self._started[name]


@pytest.fixture(scope="session")
def in_background(pool: ThreadPoolExecutor) -> Callable[..., Background]:
    """Starts scenarios, but for those that only slow tests ask for (`later`)."""

    def start(scenarios: Mapping[str, Callable[[], Any]], *, later: Sequence[str] = ()) -> Background:
        return Background(pool, scenarios, later)

    return start


@pytest.fixture(scope="session")
def shared(new_project: Callable[[], Project], pool: ThreadPoolExecutor) -> Shared:
    """One plain and one DP run, finished."""
    project = new_project()
    project.done("budget", "register", "configs/dp.yaml", "--epsilon", "10")
    plain, dp = pool.map(lambda name: project.done("run", f"configs/{name}.yaml", "--json"), ("plain", "dp"))
    return Shared(project=project, plain=plain, dp=dp)


@pytest.fixture(scope="session")
def can_mount() -> bool:
    """Whether this user may mount in a namespace of its own."""
    try:
        probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture(scope="session")
def on_tmpfs() -> Callable[[str], list[str]]:
    """A command's prefix that puts a file system of its own, with these mount options, on the folder workspace."""

    def prefix(options: str) -> list[str]:
        return ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o {options} none workspace && exec "$@"', "sh"]

    return prefix
