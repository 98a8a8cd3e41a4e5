"""No port is opened by what a run executes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: what `close` changes stays changed.
_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.pipelines.execution import own_ports

try:
    own_ports.close(sys.argv[2:])
    from apache_beam.runners.portability.fn_api_runner import worker_handlers
    from tfx.orchestration.portable import launcher

    watcher = launcher.execution_watcher.ExecutionWatcher(port=0, mlmd_connection=None, execution=None, creds=None)
    watcher.start(), watcher.stop()
    print("closed", repr(watcher.address))
    worker_handlers.GrpcServer(None, None, None)
except BadInputError as error:
    print(error.message, "|", error.fix)
"""


def _said(*beam_args: str) -> list[str]:
    command = [sys.executable, "-c", _SCRIPT, str(Path(__file__).parents[3]), *beam_args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()


def test_the_launcher_serves_nobody_and_beam_opens_no_port_later() -> None:
    closed, refused = _said("--direct_num_workers=1")[-2:]
    assert closed == "closed ''"
    assert refused.startswith("beam.args: workers in threads or processes of their own")


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [["--direct_running_mode=multi_processing"], ["--direct_running_m", "multi_threading", "--direct_num_workers=2"]],
)
def test_workers_that_take_rows_from_a_port_are_refused(asked: list[str]) -> None:
    (said,) = _said(*asked)[-1:]
    assert said.startswith("beam.args: ") and said.endswith("--direct_running_mode=in_memory, or leave it out")
