"""A run opens no port. TFX and Beam would open some that anyone who reaches the host can call without a password.

TFX's launcher serves updates of a node's execution in ML Metadata to every user of the host; nothing here sends any.
Beam's workers in threads or processes of their own get rows and files from servers that listen on every interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from privacy_pipeline.errors import BadInputError

_MODE = "in_memory"


class _NoWatcher:
    """Stands for TFX's server of updates, and serves none."""

    address = ""

    def __init__(self, **_: Any) -> None:
        pass

    def start(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


def close(beam_args: Sequence[str]) -> None:
    """Lets this process, and those that it forks, open none.

    Args:
        beam_args: options of Beam's, as the config has them.

    Raises:
        BadInputError: they ask for workers that take their rows from a port.
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
