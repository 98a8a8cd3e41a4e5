"""Each example runs as its page says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
CLI = Path(sys.executable).parent / "privacy-pipeline"
# Of each program: arguments that make it short, and what it prints.
PROGRAMS = {
    "dp_sgd_digits.py": (
        ["--epochs", "4"],
        r"epsilon [\d.]+ at delta 1e-05, unit example; 16 of 16 steps\naccuracy",
    ),
    "federated_clients.py": (
        ["--rounds", "8"],
        r"epsilon [\d.]+ at delta 1e-05 for each client; 8 rounds\naccuracy",
    ),
    "noisy_counts.py": ([], r"people: \d+\.0 \(95 % between .*\)\nmean age: [\d.]+ \(95 % between "),
}


def run(*words: str | Path, folder: Path) -> str:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": ""}
    done = subprocess.run(
        list(map(str, words)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_example_is_on_the_page_and_each_of_the_page_is_there() -> None:
    listed = set(re.findall(r"^\| `([\w.]+)/?` \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE))
    assert listed == {path.name for path in EXAMPLES.iterdir() if path.name not in ("README.md", "__pycache__")}
    assert listed == {*PROGRAMS, "own_model"}


@pytest.mark.slow_but("federated_clients.py", "noisy_counts.py")
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_runs_and_prints_what_it_is_for(program: str, tmp_path: Path) -> None:
    arguments, printed = PROGRAMS[program]
    assert re.search(printed, run(sys.executable, EXAMPLES / program, *arguments, folder=tmp_path))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the example and what it takes from the repository."""
    shutil.copytree(EXAMPLES / "own_model", tmp_path / "examples/own_model")
    shutil.copytree(ROOT / "configs/schemas", tmp_path / "configs/schemas")
    return tmp_path / "examples/own_model"


def commands(project: Path) -> list[list[str]]:
    """The commands at the top of the config, after the first, which enters its folder."""
    told = re.findall(r"^#     (.*)$", (project / "config.yaml").read_text(), re.MULTILINE)
    assert told[0] == "cd examples/own_model"
    return [line.split() for line in told[1:]]


@pytest.mark.slow
def test_a_network_of_ones_own_can_be_built(project: Path) -> None:
    for _, *words in commands(project)[:2]:
        run(CLI, *words, folder=project)
    assert "wide_and_deep" in run(CLI, "check", "config.yaml", folder=project)


@pytest.mark.slow
def test_a_network_of_ones_own_trains(project: Path) -> None:
    for name, *words in commands(project):
        assert name == "privacy-pipeline"
        run(CLI, *words, folder=project)
    assert list((project / "workspace/pushed/own-model").glob("*/saved_model.pb"))
