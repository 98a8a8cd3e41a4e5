"""A server's outer half without TensorFlow: server.py PARTIES NAME SCRATCH. Share server and ingress are the real ones.

SCRATCH/NAME is its run folder, as fresh in each process as a party's is; by `pid` in there the fake driver looks at it.
At SIGUSR1 it counts, as a party does: 700 bytes to one peer and 300 from it for every batch that was run.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from privacy_pipeline.encrypted.server import share_server
from privacy_pipeline.encrypted.transport.dialing import addresses
from privacy_pipeline.encrypted.transport.joins import TunnelRecord
from privacy_pipeline.encrypted.transport.sockets import to_unix
from privacy_pipeline.encrypted.transport.tunnel import SHARES, Route, open_ingress
from privacy_pipeline.processes.die_with_parent import die_with_parent


async def main(parties: Path, name: str, scratch: Path) -> None:
    folder = scratch / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    await share_server.serve(socket_path=folder / "shares", store=folder / "store")
    (folder / "pid").write_text(str(os.getpid()))

    def count() -> None:
        path = scratch / "buckets"
        batches = len(path.read_text().split()) if path.exists() else 0
        print(f"{name}: bytes {json.dumps({'peer': {'out': 700 * batches, 'in': 300 * batches}})}", flush=True)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, count)

    route = Route(
        allowed=frozenset({"weights-provider", "prediction-client", "driver"}),
        connect=to_unix(folder / "shares"),
        names_role=True,
    )
    address, record = addresses(parties)[name], TunnelRecord()
    await (await open_ingress(folder=parties / name, address=address, routes={SHARES: route}, record=record))


if __name__ == "__main__":
    die_with_parent(os.getppid())
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
