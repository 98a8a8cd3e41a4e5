"""Runs the service, alone or with all parties on this machine, and the weights provider, until a signal ends them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy_pipeline.encrypted.model import published
from privacy_pipeline.encrypted.model.model_format import ARCHITECTURE
from privacy_pipeline.encrypted.server import party
from privacy_pipeline.encrypted.serving import driving, local_parties
from privacy_pipeline.encrypted.serving.driver_process import DriverProcess
from privacy_pipeline.encrypted.serving.local_parties import LocalParties
from privacy_pipeline.encrypted.serving.provider import Provider
from privacy_pipeline.encrypted.serving.ready_cluster import Limits, Setting
from privacy_pipeline.encrypted.serving.service import Service
from privacy_pipeline.encrypted.worker.parties import PROVIDER
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.file_rights import real

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model for private prediction.

    Attributes:
        published: its public side.
        private_model: the network with its weights; None where they are on another host.
    """

    published: Path
    private_model: Path | None

    def weights(self) -> Path:
        """Return the network with its weights.

        Raises:
            BadInputError: it is not here.
        """
        if self.private_model is None:
            raise BadInputError(f"{self.published}: holds no weights", fix="give the run, or the pushed model")
        return self.private_model


def serve(
    *,
    model: ServedModel,
    parties: Path,
    local: bool,
    buckets: Sequence[int],
    batch_seconds: float,
    report: Report,
) -> None:
    """Serve until SIGINT or SIGTERM; then everything that it started has ended.

    Args:
        model: what is served. Its public side is copied to `parties`, for clients.
        parties: what `init_parties` made, or what of it is on this host.
        local: start servers and weights provider on this machine.
        buckets: rows for which a graph is built.
        batch_seconds: limit for the evaluation of one batch.
        report: gets what happens, a line each.

    Raises:
        BadInputError: model or folder is not usable.
        PipelineError: a certificate is not valid, an address cannot be bound, or a party does not start.
    """
    if local:
        model.weights()
    known = party.load(name=party.DRIVER, folder=parties).addresses
    if real(model.published) != real(parties / published.FOLDER):
        published.copy(model.published, parties / published.FOLDER)
    digest = published.load(parties / published.FOLDER).digest
    logs = parties / "logs"
    logs.mkdir(mode=0o700, exist_ok=True)
    # The driver, in its namespace, does not see the folder with the keys.
    with tempfile.TemporaryDirectory(prefix="privacy-pipeline-") as public:
        shutil.copyfile(parties / published.FOLDER / ARCHITECTURE, Path(public) / ARCHITECTURE)
        setting = Setting(
            folder=parties / "driver",
            addresses=known,
            published=Path(public),
            digest=digest,
            buckets=buckets,
            start_driver=lambda: DriverProcess.start(
                driving.command(parties), environment=os.environ, log=logs / "driver.log"
            ),
            limits=Limits(run=batch_seconds),
        )
        supervisor = _local_parties(model, parties, logs) if local else None
        _until_told_to_end(_served(Service(setting, supervisor=supervisor, report=report), supervisor))
    report("ended")


def provide_weights(*, model: ServedModel, parties: Path, report: Report) -> None:
    """Provide the weights whenever the driver asks, until SIGINT or SIGTERM.

    Raises:
        BadInputError: model or folder is not usable.
        PipelineError: the certificate is not valid, or the address cannot be bound.
    """
    known = party.load(name=PROVIDER, folder=parties).addresses
    provider = Provider(folder=parties / PROVIDER, addresses=known, private_model=model.weights())

    async def provide() -> None:
        server = await provider.serve(report=report)
        report(f"ready on {known[PROVIDER][0]}:{known[PROVIDER][1]}")
        async with server:
            await server.serve_forever()

    _until_told_to_end(provide())


async def _served(service: Service, supervisor: LocalParties | None) -> None:
    try:
        await service.run()
    finally:
        if supervisor is not None:
            await supervisor.close()


def _local_parties(model: ServedModel, parties: Path, logs: Path) -> LocalParties:
    folder = str(model.weights().parent.parent)
    commands = {
        **local_parties.server_commands(parties),
        PROVIDER: [*local_parties.COMMAND, "provide-weights", folder, *local_parties.tail(parties)],
    }
    return LocalParties(commands=commands, environment=os.environ, logs=logs)


def _until_told_to_end(work: Coroutine[Any, Any, None]) -> None:
    async def run() -> None:
        task = asyncio.ensure_future(work)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            return  # a signal ended it

    asyncio.run(run())
