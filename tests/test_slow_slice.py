"""The slice of the slow tests: its order, its end, and what it prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
TESTS = """
import time, pytest

pytestmark = pytest.mark.slow

@pytest.mark.parametrize("number", range(12))
def test_many(number):
    assert number >= 0

@pytest.mark.timeout(4000)
def test_that_may_take_an_hour():
    assert True
"""


def ran(folder: Path, text: str, *, seconds: float, date: str = "2030-01-01") -> subprocess.CompletedProcess[str]:
    (folder / "test_slices.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow\ntimeout = 1200\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.slow_slice", "-p", "no:cacheprovider", "-q", "-m", "slow"]
    options = [f"--slice-seconds={seconds}", f"--slice-date={date}", f"--rootdir={folder}", f"-c{folder}/pytest.ini"]
    done = [*command, *options, str(folder)]
    return subprocess.run(done, cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False)


def names(output: str) -> list[str]:
    return re.findall(r"^\S*test_slices\.py::(\S+)$", output, re.MULTILINE)


def test_the_date_decides_the_order_and_long_tests_are_left_out(tmp_path: Path) -> None:
    first, again, next_day = (
        ran(tmp_path, TESTS, seconds=600, date=date) for date in ("2030-01-01", "2030-01-01", "2030-01-02")
    )
    assert first.returncode == 0, first.stdout + first.stderr
    assert "slice of 2030-01-01: 12 of 13 slow tests" in first.stdout
    assert names(first.stdout) == names(again.stdout) != names(next_day.stdout)
    assert sorted(names(first.stdout)) == sorted(names(next_day.stdout)) == sorted(f"test_many[{n}]" for n in range(12))


def test_a_failing_test_fails_the_run(tmp_path: Path) -> None:
    done = ran(tmp_path, TESTS.replace("number >= 0", "number != 3"), seconds=600)
    assert done.returncode == 1 and "1 failed, 11 passed" in done.stdout


@pytest.mark.slow
def test_the_limit_ends_a_test_without_failing_it_and_starts_no_other(tmp_path: Path) -> None:
    text = TESTS.replace("assert number >= 0", "time.sleep(300)").replace(
        "@pytest.mark.p", "@pytest.mark.timeout(60)\n@pytest.mark.p"
    )
    done = ran(tmp_path, text, seconds=60)
    assert done.returncode == 0, done.stdout
    assert "1 skipped" in done.stdout and len(names(done.stdout)) == 1


def test_a_slice_without_time_runs_nothing_and_says_so(tmp_path: Path) -> None:
    done = ran(tmp_path, TESTS, seconds=0)
    assert done.returncode == 0 and "0 of 13 slow tests" in done.stdout
