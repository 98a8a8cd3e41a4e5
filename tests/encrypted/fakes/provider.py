"""The real weights provider: provider.py PARTIES MODEL."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from privacy_pipeline.encrypted.serving.provider import Provider
from privacy_pipeline.encrypted.transport.dialing import addresses
from privacy_pipeline.processes.die_with_parent import die_with_parent


async def main(parties: Path, model: Path) -> None:
    provider = Provider(folder=parties / "weights-provider", addresses=addresses(parties), private_model=model)
    server = await provider.serve(report=print)
    await server.serve_forever()


if __name__ == "__main__":
    die_with_parent(os.getppid())
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
