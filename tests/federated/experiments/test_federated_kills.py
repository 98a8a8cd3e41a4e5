"""A federated run that is killed at any moment goes on to the same weights, and leaves no process behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def killed(folder: Path, *, kills: int, seed: int, mechanism: str) -> dict[str, Any]:
    script = Path(__file__).with_name("kill_child.py")
    command = [sys.executable, str(script), str(folder), str(kills), str(seed), mechanism]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=1700)
    assert ran.returncode == 0, ran.stderr[-2000:]
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return told


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("kills", "mechanism"),
    [
        (3, "gaussian"),
        pytest.param(50, "gaussian", marks=pytest.mark.slow),
        pytest.param(20, "skellam", marks=pytest.mark.slow),
    ],
)
def test_killed_runs_end_with_the_same_weights(kills: int, mechanism: str, tmp_path: Path) -> None:
    told = killed(tmp_path, kills=kills, seed=kills, mechanism=mechanism)
    assert told["kills"] == kills and told["same"]
    assert told["resumed"] + told["anew"] == kills + told["runs"]
    assert told["resumed"] >= 1 and told["last_resumed_at"] > 0
