"""A server's outer half without TensorFlow: server.py PARTIES NAME SCRATCH. Its desk is the real one.

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

from privacy_pipeline.die_with_parent import die_with_parent
from privacy_pipeline.encrypted import desk
from privacy_pipeline.encrypted.dialing import addresses, listen, role_of


async def main(parties: Path, name: str, scratch: Path) -> None:
    folder = scratch / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    await desk.serve(socket_path=folder / "desk", store=folder / "store")
    (folder / "pid").write_text(str(os.getpid()))

    def count() -> None:
        path = scratch / "buckets"
        batches = len(path.read_text().split()) if path.exists() else 0
        print(f"{name}: bytes {json.dumps({'peer': {'out': 700 * batches, 'in': 300 * batches}})}", flush=True)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, count)

    async def route(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(str(folder / "desk"))
        inner_writer.write(f"{role_of(writer)}\n".encode())
        both = [asyncio.ensure_future(copy(reader, inner_writer)), asyncio.ensure_future(copy(inner_reader, writer))]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for one in both:
            one.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        inner_writer.close()

    allowed = frozenset({"weights-provider", "prediction-client", "driver"})
    server = await listen(folder=parties / name, address=addresses(parties)[name], allowed=allowed, serve=route)
    await server.serve_forever()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while content := await reader.read(1 << 16):
        writer.write(content)
        await writer.drain()


if __name__ == "__main__":
    die_with_parent(os.getppid())
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
