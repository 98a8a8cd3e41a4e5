"""The process that drives the computation: one JSON object a line to it, one back, each within a time limit.

It runs in the environment of TF-Encrypted, so that the service itself stays light and can end it when it hangs.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from privacy_pipeline.errors import PipelineError
from privacy_pipeline.files.bounded import json_value

_LARGEST_LINE = 1 << 20  # bytes
_CLEAN_UP_SECONDS, _END_SECONDS = 5.0, 5.0


class DriverError(PipelineError):
    """The driver reports an error, ended, or does not answer: then `hangs`, probably because a server does."""

    def __init__(self, message: str, *, hangs: bool = False) -> None:
        super().__init__(message, fix="see the logs of the parties")
        self.hangs = hangs


class DriverProcess:
    """One driver, until it fails for the first time. Calls come one after the other.

    Args:
        process: started by `start`.
        log: where its standard error goes.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process, self._log = process, log

    @classmethod
    async def start(cls, command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> DriverProcess:
        """Start the program; its standard error goes to `log`.

        Raises:
            OSError: it cannot be started.
        """
        with log.open("ab") as stream:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stream,
                env=dict(environment),
                limit=_LARGEST_LINE,
                start_new_session=True,  # so that it can be killed with all it started
            )
        return cls(process, log)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def call(self, message: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Args:
            message: what to do, its `op` and more (`worker/driver.py`).
            seconds: limit.

        Raises:
            DriverError: it reports an error, ended, or did not answer in time; it is of no use any more.
        """
        what = message["op"]
        try:
            return await asyncio.wait_for(self._call(message), seconds)
        except asyncio.TimeoutError:
            raise DriverError(f"the driver does not answer to '{what}' within {seconds:g} s", hangs=True) from None
        except (OSError, ValueError) as error:
            raise DriverError(f"the driver is out of order in '{what}': {error}") from None

    async def _call(self, message: Mapping[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise ValueError("no pipes")
        stdin.write(json.dumps(message).encode() + b"\n")
        await stdin.drain()
        line = await stdout.readline()
        if not line:
            raise ValueError(f"it ended ({last_line(self._log)})")
        answer = json_value(line)
        if not isinstance(answer, dict):
            raise ValueError("no object")
        if answer.get("ok") is not True:
            raise DriverError(f"the driver reports: {answer.get('error', 'no reason')}")
        return answer

    async def close(self) -> None:
        """End the process and everything it started: it is asked first, so that it can clean up."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is not None:
            stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _CLEAN_UP_SECONDS)
        except asyncio.TimeoutError:
            os.killpg(self._process.pid, signal.SIGKILL)
        await asyncio.wait_for(self._process.wait(), _END_SECONDS)
        if stdout is not None:
            await asyncio.wait_for(stdout.read(), _END_SECONDS)  # or its pipe would outlive the event loop


def last_line(log: Path) -> str:
    """Return what a process printed last: its last error, else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it printed nothing"])[-1]
