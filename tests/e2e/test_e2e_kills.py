"""Random kills of commands and of their processes: nothing is under-counted, no orphan, no half model, no stray key.

`make kills` runs 200 of them. PRIVACY_PIPELINE_TEST_RANDOM_KILLS sets how many, PRIVACY_PIPELINE_TEST_SEED draws other
ones, and PRIVACY_PIPELINE_TEST_KILLS_LOG names a file in which each command is noted. A seed draws the same moments
only as far as the commands do the same in the same order.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backends.conftest import Split, split  # noqa: F401 (a fixture)
from tests.e2e.kills import scenarios, serving
from tests.e2e.kills.chains import Scenario, killed
from tests.encrypted.conftest import encrypted_python  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(6 * 3600)]
TOTAL = int(os.environ.get("PRIVACY_PIPELINE_TEST_RANDOM_KILLS", "20"))
SEED = int(os.environ.get("PRIVACY_PIPELINE_TEST_SEED", "1"))
_LOG = os.environ.get("PRIVACY_PIPELINE_TEST_KILLS_LOG")
SHARES: dict[Callable[[Path], Scenario], float] = {
    scenarios.Registration: 0.30,
    scenarios.Rotation: 0.10,
    scenarios.Run: 0.20,
    scenarios.WholeRun: 0.10,
    scenarios.FederatedRun: 0.10,
}


@pytest.mark.parametrize(("make", "share"), SHARES.items(), ids=lambda value: getattr(value, "name", ""))
def test_a_killed_command_leaves_a_state_that_goes_on(
    make: Callable[[Path], Scenario], share: float, can_mount: bool, tmp_path: Path
) -> None:
    if make is scenarios.WholeRun and not can_mount:
        pytest.skip("no user namespaces here, in which a user's model is built")
    kills = max(1, round(share * TOTAL))
    told = killed(make(tmp_path / "base"), kills=kills, seed=SEED, folder=tmp_path / "chains", log=_log(tmp_path))
    assert told.faults == []
    assert told.kills >= kills


def _log(folder: Path) -> Path:
    return Path(_LOG) if _LOG else folder / "kills.jsonl"


@pytest.mark.usefixtures("encrypted_python")
@pytest.mark.parametrize("name", ["serve", "predict"])
def test_killed_parties_and_clients_leave_no_key_and_no_process(
    name: str,
    split: Split,  # noqa: F811
    tmp_path: Path,
) -> None:
    log, kills = _log(tmp_path), max(1, round(0.10 * TOTAL))
    with contextlib.ExitStack() as stack:
        scenario: Scenario
        if name == "serve":
            scenario = serving.Serving(tmp_path / "base", split)
        else:
            scenario = prediction = serving.Prediction(tmp_path / "base", split)
            stack.callback(prediction.close)
        told = killed(scenario, kills=kills, seed=SEED, folder=tmp_path / "chains", log=log)
    assert told.faults == []
    assert told.kills >= kills
