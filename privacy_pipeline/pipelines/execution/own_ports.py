"""Keep a run from opening ports. TFX and Beam would open ports that anyone who reaches the host can use, without a
password.

TFX's launcher opens a server for updates of a node's execution in ML Metadata to every user of the host; no component
here sends such updates. Beam's workers in separate threads or processes get rows and files from servers that listen on
every interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from privacy_pipeline.errors import BadInputError

_MODE = "in_memory"


class _NoWatcher:
    """A stand-in for TFX's update server that opens no port."""

    address = ""

    def __init__(self, **_: Any) -> None:
        pass

    def start(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


def close(beam_args: Sequence[str]) -> None:
    """Keep this process, and those that it forks, from opening a port.

    Args:
        beam_args: Beam's options, as in the config.

    Raises:
        BadInputError: the options ask for workers that get their rows from a port.
    """
    from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
    from apache_beam.runners.portability.fn_api_runner import worker_handlers
    from tfx.orchestration.portable import execution_watcher

    mode = PipelineOptions(list(beam_args)).view_as(DirectOptions).direct_running_mode
    if mode != _MODE:
        _refuse_ports()
    worker_handlers.GrpcServer = _refuse_ports
    execution_watcher.ExecutionWatcher = _NoWatcher


def _refuse_ports(*_: Any) -> NoReturn:
    raise BadInputError(
        "beam.args: workers in threads or processes of their own take rows and files from ports that everybody who "
        "reaches this host may call",
        fix=f"--direct_running_mode={_MODE}, or leave it out",
    )
