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
    own_ports.close(sys.argv[3:])
    from apache_beam.runners.portability.fn_api_runner import worker_handlers
    from tfx.orchestration.portable import launcher

    if sys.argv[2] == "beam":
        worker_handlers.GrpcServer(None, None, None)
    watcher = launcher.execution_watcher.ExecutionWatcher(port=0, mlmd_connection=None, execution=None, creds=None)
    watcher.start(), watcher.stop()
    print("closed", repr(watcher.address))
except BadInputError as error:
    print(error.message, "|", error.fix)
"""


def _said(what: str, *beam_args: str) -> str:
    command = [sys.executable, "-c", _SCRIPT, str(Path(__file__).parents[3]), what, *beam_args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]


def test_the_launcher_serves_nobody_and_beam_opens_no_port_later() -> None:
    assert _said("launcher", "--direct_num_workers=1") == "closed ''"
    assert _said("beam").startswith("beam.args: workers in threads or processes of their own")


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [["--direct_running_mode=multi_processing"], ["--direct_running_m", "multi_threading", "--direct_num_workers=2"]],
)
def test_workers_that_take_rows_from_a_port_are_refused(asked: list[str]) -> None:
    said = _said("launcher", *asked)
    assert said.startswith("beam.args: ") and said.endswith("--direct_running_mode=in_memory, or leave it out")
