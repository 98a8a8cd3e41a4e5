"""All parties as processes of this machine, each with its own key: to try a deployment out, and to test it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from privacy_pipeline.encrypted.serving.driver_process import last_line
from privacy_pipeline.encrypted.transport.pace import Speed
from privacy_pipeline.encrypted.worker.parties import SERVERS
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.processes.programs import command_calling

_STARTS = 2  # that may fail
_CLEAN_UP_SECONDS, _END_SECONDS = 5.0, 10.0
# By this interpreter: no script need be on the path.
COMMAND = (*command_calling("privacy_pipeline.cli.main", "main"), "encrypted")


def tail(parties: Path) -> list[str]:
    """Return the arguments of every party that this process starts: its folder, and with whom it ends."""
    return ["--parties", str(parties), "--parent", str(os.getpid())]


def server_commands(parties: Path, *, speed: Speed | None = None) -> dict[str, list[str]]:
    """Return the command lines of the three servers, which end with this process.

    Args:
        parties: folder of `init_parties`.
        speed: slows their tunnels down; None for as fast as the machine can.
    """
    pace = [] if speed is None else ["--delay-ms", str(speed.delay_ms), "--rate-mbps", str(speed.rate_mbps)]
    return {name: [*COMMAND, "party", name, *tail(parties), *pace] for name in SERVERS}


class DoesNotStartError(PipelineError):
    """A party ends as soon as it is started."""


class LocalParties:
    """Starts parties, and restarts them when they end or hang.

    Args:
        commands: command line of each party.
        environment: their environment variables.
        logs: folder; what a party prints goes to `<party>.log` in it.
        grace_seconds: in which a party may start before it counts as hanging.
    """

    def __init__(
        self,
        *,
        commands: Mapping[str, Sequence[str]],
        environment: Mapping[str, str],
        logs: Path,
        grace_seconds: float = 60.0,
    ) -> None:
        self._grace = grace_seconds
        self._commands, self._environment, self._logs = commands, environment, logs
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._since: dict[str, float] = {}
        self._failed = dict.fromkeys(commands, 0)  # starts, before all were up for the first time
        self._came_up = False

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of those that run."""
        return {name: one.pid for name, one in self._processes.items() if one.returncode is None}

    async def ensure(self) -> None:
        """Start those that do not run.

        Raises:
            DoesNotStartError: a party ended as often as it was started, before all were up; quotes its log.
        """
        for name in self._commands:
            process = self._processes.get(name)
            if process is not None and process.returncode is None:
                continue
            if process is not None:
                await self._end([name])  # what the ended process left behind
                self._failed[name] += not self._came_up
            if self._failed[name] >= _STARTS:
                log = self.log(name)
                raise DoesNotStartError(f"{name} does not start: {last_line(log)}", fix=f"see {log}")
            await self._start(name)

    def came_up(self) -> None:
        """Note that all answered: from now on a party that ends is restarted, whatever the reason."""
        self._came_up = True
        self._failed = dict.fromkeys(self._commands, 0)

    async def replace(self, party: str | None) -> None:
        """End a party that hangs, so that `ensure` restarts it; one that just started is left alone.

        Args:
            party: the one to end; None for all three servers, where it is not known which of them hangs.
        """
        names = SERVERS if party is None else (party,)
        ripe = [name for name in names if time.monotonic() - self._since.get(name, 0.0) > self._grace]
        await self._end(ripe)

    async def close(self) -> None:
        """End all parties and what they started: they are asked first, so that they can clean up."""
        running = [one for one in self._processes.values() if one.returncode is None]
        for process in running:
            process.terminate()
        asked = [asyncio.ensure_future(process.wait()) for process in running]
        if asked:
            _, late = await asyncio.wait(asked, timeout=_CLEAN_UP_SECONDS)
            for one in late:
                one.cancel()
        await self._end(list(self._processes))

    async def _start(self, name: str) -> None:
        with self.log(name).open("ab") as log:
            self._processes[name] = await asyncio.create_subprocess_exec(
                *self._commands[name],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self._environment),
                start_new_session=True,  # so that it can be killed with all it started
            )
        self._since[name] = time.monotonic()

    async def _end(self, names: Iterable[str]) -> None:
        ended = [self._processes.pop(name) for name in names if name in self._processes]
        for process in ended:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # nobody of its group is left
        await asyncio.wait_for(asyncio.gather(*(process.wait() for process in ended)), _END_SECONDS)

    def log(self, name: str) -> Path:
        """Return the file that a party's output goes to."""
        return self._logs / f"{name}.log"
