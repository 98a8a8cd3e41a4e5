"""Evaluates the eval split through real parties: three servers behind mutual TLS, the pipeline is everybody else."""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.encrypted.client.client import Client, Session
from privacy_pipeline.encrypted.evaluation import evaluation, own_parties
from privacy_pipeline.encrypted.evaluation.deployment import Built, Deployment
from privacy_pipeline.encrypted.evaluation.measured import BatchTimes, EncryptedEvaluation
from privacy_pipeline.encrypted.evaluation.own_parties import OwnParties
from privacy_pipeline.encrypted.model import model_format
from privacy_pipeline.encrypted.model.inputs import cut, encode_inputs
from privacy_pipeline.encrypted.model.model_format import ARCHITECTURE, PrivateModel
from privacy_pipeline.encrypted.model.published import Published
from privacy_pipeline.encrypted.serving import driving
from privacy_pipeline.encrypted.serving.driver_process import DriverProcess
from privacy_pipeline.encrypted.serving.local_parties import LocalParties, server_commands
from privacy_pipeline.encrypted.serving.provider import Provider
from privacy_pipeline.encrypted.serving.ready_cluster import Limits, Setting
from privacy_pipeline.encrypted.worker.parties import CLIENT, PROVIDER
from privacy_pipeline.errors import BadInputError, PipelineError

LIMITS = Limits(load=300.0, build=600.0, run=300.0)
_CALLS = 5  # timed, after one that is not

Array = NDArray[Any]


def evaluate(
    folder: Path,
    *,
    parties: Path,
    published: Published,
    inputs: Mapping[str, Array],
    labels: Array,
    plain: Array,
    batches: Sequence[int] = evaluation.BATCHES,
) -> EncryptedEvaluation:
    """Evaluate through the parties of a folder; when it returns or fails, none that it started runs.

    Args:
        folder: the converted model.
        parties: of `init_parties`, with the folders that `own_parties.require_usable` asks for.
        published: the model's public side.
        inputs: the eval split by input name, each [rows, ...].
        labels: 0 or 1, [rows, 1].
        plain: logits of the plain model, [rows, 1].
        batches: sizes that are timed; the largest evaluates the split.

    Returns:
        The EncryptedEvaluation; its protection is what `own_parties` finds for the folder.

    Raises:
        BadInputError: a layer overflows, a row is outside of its inputs' ranges, the environment is not set up, or the
            folder is not usable.
        PipelineError: a party failed, or is not reached in time; names it.
    """
    digest = model_format.digest_of(folder)
    model = model_format.load(folder, digest=digest)
    proof = evaluation.require_proven(model, inputs)
    found = own_parties.require_usable(parties)
    sizes = sorted(batches)
    logs = _logs(found)
    client = Client(
        folder=found.folder / CLIENT,
        addresses=found.addresses,
        published=published,
        seconds=LIMITS.run + LIMITS.share_server,
    )
    # The driver, in its namespace, sees neither the folder with the keys nor the weights.
    with tempfile.TemporaryDirectory(prefix="privacy-pipeline-") as public:
        shutil.copyfile(folder / ARCHITECTURE, Path(public) / ARCHITECTURE)
        deployment = _deployment(found, folder, digest, Path(public), sizes, logs)
        times, private = asyncio.run(measure(deployment, client, model=model, inputs=inputs, batches=sizes, of=found))
    return evaluation.compare(
        plain=plain,
        private=private,
        labels=labels,
        model=digest,
        proof=proof,
        batches=times,
        threat_model=found.threat_model,
    )


async def measure(
    deployment: Deployment,
    client: Client,
    *,
    model: PrivateModel,
    inputs: Mapping[str, Array],
    batches: Sequence[int],
    of: OwnParties,
) -> tuple[list[BatchTimes], Array]:
    """Time every batch size, and evaluate all rows with the largest.

    Args:
        deployment: not up yet; builds the same batch sizes.
        client: of its service.
        model: of which only the inputs are looked at.
        inputs: by name, each [rows, ...].
        batches: in ascending order.
        of: what is known of the parties.

    Returns:
        One entry for each batch size, and the logits of all rows, [rows, ...].

    Raises:
        PipelineError: a party failed, or the service's protection is not that of `of`.
    """
    async with deployment.up():
        said = await client.require_ready()
        if said != of.threat_model.protection:
            raise PipelineError(
                f"the service states {said} inference, {of.folder / 'parties.yaml'} {of.threat_model.protection}"
            )
        async with client.session() as session:
            times = [await _timed(deployment, session, _batch(model, inputs, 0, size), size) for size in batches]
            rows, largest = len(next(iter(inputs.values()))), batches[-1]
            parts = [await session.predict(_batch(model, inputs, start, largest)) for start in range(0, rows, largest)]
    return times, np.concatenate(parts)[:rows]


async def _timed(deployment: Deployment, session: Session, rows: Mapping[str, Array], size: int) -> BatchTimes:
    await session.predict(rows)
    before, taken = await deployment.carried(), []
    for _ in range(_CALLS):
        began = time.perf_counter()
        await session.predict(rows)
        taken.append(time.perf_counter() - began)
    after, seconds = await deployment.carried(), statistics.median(taken)
    built: Built = deployment.driver.builds[size]
    carried = None if before is None or after is None else round((after - before) / _CALLS)
    return BatchTimes(
        batch=size,
        build_seconds=built.seconds,
        seconds=seconds,
        rows_per_second=size / seconds,
        bytes_per_call=built.sent_bytes if carried is None else carried,
        bytes_counted_by="graph" if carried is None else "tunnels",
        rounds=built.rounds,
    )


def _batch(model: PrivateModel, inputs: Mapping[str, Array], start: int, size: int) -> dict[str, Array]:
    return dict(encode_inputs(model, cut(inputs, start, size), rows=size))


def _logs(found: OwnParties) -> Path:
    logs = found.folder / "logs"
    try:
        logs.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise BadInputError(
            f"training.encrypted.parties: {logs}: {error.strerror}", fix="let the pipeline write there"
        ) from None
    return logs


def _deployment(
    found: OwnParties, folder: Path, digest: str, public: Path, sizes: Sequence[int], logs: Path
) -> Deployment:
    command = driving.command(found.folder)
    setting = Setting(
        folder=found.folder / "driver",
        addresses=found.addresses,
        published=public,
        digest=digest,
        buckets=sizes,
        start_driver=lambda: DriverProcess.start(command, environment=os.environ, log=logs / "driver.log"),
        limits=LIMITS,
    )
    servers = None
    if found.local:
        servers = LocalParties(commands=server_commands(found.folder), environment=os.environ, logs=logs)
    provider = Provider(folder=found.folder / PROVIDER, addresses=found.addresses, private_model=folder)
    if provider.digest != digest:
        raise BadInputError(f"{folder}: the model changed while it was evaluated", fix="run the pipeline again")
    return Deployment(setting, provider=provider, servers=servers)
