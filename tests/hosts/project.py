"""A small project in a folder that every user of the host may enter, and the command line run in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.pipelines.projects import SCHEMA, csv_text

CLI = str(Path(sys.executable).with_name("privacy-pipeline"))
DEADLINE = 600
CONFIG = """\
pipeline: things
dataset: {name: things, path: data, schema: schema.pbtxt, label: bought, positive_class: "yes", privacy_unit: row}
model: {hidden_units: [4]}
training: {backend: plain, epochs: 1, batch_size: 40}
evaluation:
  thresholds: {accuracy: {min: 0.0}}
"""
_DP = "backend: dp_sgd, dp_sgd: {noise_multiplier: 8.0, delta: 1.0e-5, clipping_norm: 1.0}"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return " ".join(f"{self.out} {self.err}".split())

    @property
    def error(self) -> str:
        """The one line that says what went wrong; what stands on standard error beside it is the fix."""
        lines = self.err.strip().splitlines()
        (said,) = [line for line in lines if line.startswith("error:")]
        assert "Traceback" not in self.out + self.err, self.err
        return said


@dataclass(frozen=True)
class Project:
    """A user's folder: two configs, data, schema, workspace and ledger.

    Attributes:
        root: the folder.
        umask: under which its commands are started.
        environment: what their environment holds beside this process's own.
    """

    root: Path
    umask: int = 0o022
    environment: dict[str, str] = field(default_factory=dict)

    def cli(self, *args: str, prefix: Sequence[str] = (), environment: dict[str, str] | None = None) -> Ended:
        """Runs the command line here and waits for it."""
        done = subprocess.run(
            [*prefix, CLI, *args],
            cwd=self.root,
            env=os.environ | self.environment | (environment or {}),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            umask=self.umask,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def done(self, *args: str) -> str:
        """What a command prints that has to end with 0."""
        ended = self.cli(*args)
        assert ended.code == 0, f"{args}: {ended.out}{ended.err}"
        return ended.out

    def start(self, *args: str, prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Starts the command line and does not wait; its output is piped."""
        return subprocess.Popen(
            [*prefix, CLI, *args],
            cwd=self.root,
            env=os.environ | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            umask=self.umask,
        )

    def run_id(self) -> str:
        """The newest run."""
        return str(json.loads(self.done("runs", "--json"))[-1]["run_id"])

    def node(self, name: str) -> str:
        """What the newest run's state on disk says of a node."""
        states = sorted((self.root / "workspace/runs").glob("*/run.json"))
        if not states:
            return "waiting"
        nodes = json.loads(states[-1].read_text())["nodes"]
        return str(nodes.get(name, {"status": "waiting"})["status"])

    def budget(self) -> dict[str, Any]:
        """The one budget of the ledger, after the ledger was verified."""
        self.done("budget", "verify")
        (status,) = json.loads(self.done("budget", "status", "--json"))
        found: dict[str, Any] = status
        return found


def write_project(root: Path, *, backend: str = "dp_sgd") -> None:
    """Files of a user who takes care: data is the user's alone, while configs and schema may be read by everybody.

    Args:
        root: a folder that is there.
        backend: of `config.yaml`; `plain.yaml` has the plain one.
    """
    for split, rows, first in (("train", 160, 0), ("eval", 40, 160)):
        folder = root / "data/span-1" / split
        folder.mkdir(parents=True)
        (folder / "rows.csv").write_text(csv_text(rows, first=first))
        (folder / "rows.csv").chmod(0o600)
    (root / "schema.pbtxt").write_text(SCHEMA)
    (root / "plain.yaml").write_text(CONFIG)
    (root / "config.yaml").write_text(CONFIG.replace("backend: plain", _DP) if backend == "dp_sgd" else CONFIG)
    for name in ("schema.pbtxt", "plain.yaml", "config.yaml"):
        (root / name).chmod(0o644)


def wait_for(what: str, condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Waits until something happened, while a process that has to bring it about lives."""
    end = time.monotonic() + DEADLINE
    while not condition():
        if process is not None and process.poll() is not None and not condition():
            raise AssertionError(f"{what} has not happened: {process.communicate()}")
        assert time.monotonic() < end, f"{what} has not happened after {DEADLINE} s"
        time.sleep(0.02)


def processes_of(root: Path) -> list[int]:
    """Living processes that have a folder in their arguments, or work in it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            where = os.readlink(folder / "cwd")
        except OSError:
            continue
        if state != "Z" and int(folder.name) != os.getpid() and (str(root) in command or where.startswith(str(root))):
            found.append(int(folder.name))
    return found


def end(process: subprocess.Popen[str]) -> None:
    """Ends a command that may be there still, and what it started."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
