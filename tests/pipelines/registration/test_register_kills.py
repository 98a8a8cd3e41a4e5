"""A registration, and a change of the key, killed before each call that writes: no stray key, and the next one ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("name", "least"), [("register", 100), ("rotate", 20)])
def test_killed_at_any_call_it_leaves_no_key_and_goes_on(name: str, least: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.e2e.kills.each_call", str(tmp_path), name, "1"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["problems"] == [] and told["kills"] >= least
