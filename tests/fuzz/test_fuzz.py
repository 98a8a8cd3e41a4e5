"""Every fuzzer, seeds 1 to 20; in the fast tests a slice of each, another one every day.

A slice that fails prints the command that runs the one input again.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.fuzzers import FUZZERS

ROOT = Path(__file__).resolve().parents[2]
TODAY = datetime.datetime.now(datetime.timezone.utc).date().toordinal()


def run(name: str, *, seed: int, inputs: int) -> subprocess.CompletedProcess[str]:
    """A fuzzer in a process of its own, so that its limits hold for nothing else, and its death is seen."""
    command = [sys.executable, "-m", "tests.fuzz", name, "--seed", str(seed), "--inputs", str(inputs)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def require_clean(done: subprocess.CompletedProcess[str]) -> None:
    told = f"exit code {done.returncode}: {' '.join(done.args[1:])}\n{done.stdout}\n{done.stderr[-2_000:]}"
    assert done.returncode == 0, told


@pytest.mark.parametrize("name", FUZZERS)
def test_a_slice_of_the_day(name: str) -> None:
    require_clean(run(name, seed=TODAY, inputs=FUZZERS[name].slice))


@pytest.mark.slow
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("seed", range(1, 21))
@pytest.mark.parametrize("name", FUZZERS)
def test_a_seed(name: str, seed: int) -> None:
    require_clean(run(name, seed=seed, inputs=FUZZERS[name].inputs))
