"""Program: the driver's process outside of its namespace, which leads it to the servers and to nobody else.

    driving FOLDER [DELAY_MS RATE_MBPS]

FOLDER is of `init_parties`. Standard input and output are those of `worker/driver.py`. Each server is asked for its
certificate before anything is started.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from privacy_pipeline.encrypted.run_folder import run_folder
from privacy_pipeline.encrypted.server import party
from privacy_pipeline.encrypted.transport.joins import TunnelRecord
from privacy_pipeline.encrypted.transport.pace import Speed
from privacy_pipeline.encrypted.transport.tunnel import probe
from privacy_pipeline.encrypted.worker.parties import SERVERS
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.processes.die_with_parent import die_with_parent
from privacy_pipeline.processes.programs import command_of


def command(folder: Path, *, speed: Speed | None = None) -> list[str]:
    """Return the command line of this program."""
    slow = [] if speed is None else [str(speed.delay_ms), str(speed.rate_mbps)]
    return [*command_of("privacy_pipeline.encrypted.serving.driving"), str(folder), *slow]


async def drive(driver: party.Party) -> int:
    """Run the driver until its input ends; return its exit code.

    Raises:
        PipelineError: a server is not reached, is somebody else, or refuses; or no namespace can be had.
    """
    for server in SERVERS:
        await probe(folder=driver.folder, address=driver.addresses[server], expected=server)
    servers = {name: TunnelRecord(report=party.complain) for name in SERVERS}
    with run_folder(driver.name) as run:
        async with party.sandboxed(driver, servers, work=run, program=["driver"], stdin=0, stdout=1) as inner:
            return await inner.process.wait()


def main(arguments: Sequence[str]) -> int:
    """Run the program."""
    die_with_parent(os.getppid())
    folder, *slow = arguments
    speed = Speed(delay_ms=float(slow[0]), rate_mbps=float(slow[1])) if slow else None
    try:
        return asyncio.run(drive(party.load(name=party.DRIVER, folder=Path(folder), speed=speed)))
    except PipelineError as error:
        print(f"driver: {error.message}", file=sys.stderr)  # noqa: T201
        return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
