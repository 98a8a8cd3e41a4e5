"""Program: private predictions of a whole split with all parties in this process, and what they cost.

    python -m privacy_pipeline.encrypted.worker.evaluate JOB

JOB is JSON: `model` (folder), `digest`, `batches`, `work` (folder that holds inputs.npz). It leaves logits.npy
(float64, [rows, ...]) and measured.json (a list, one entry a batch size) in `work`.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from privacy_pipeline.encrypted.model import model_format
from privacy_pipeline.encrypted.model.inputs import cut
from privacy_pipeline.errors import PipelineError

_CALLS = 5  # timed, after one that is not


def main(job_file: Path) -> None:
    """Do the job."""
    job = json.loads(job_file.read_text())
    work = Path(job["work"])
    model = model_format.load(Path(job["model"]), digest=job["digest"])
    with np.load(work / "inputs.npz", allow_pickle=False) as archive:
        inputs = {name: archive[name] for name in archive.files}
    measured, logits = evaluate(model, inputs, batches=sorted(job["batches"]))
    np.save(work / "logits.npy", logits)
    (work / "measured.json").write_text(json.dumps(measured))


def evaluate(
    model: model_format.PrivateModel, inputs: Mapping[str, NDArray[Any]], *, batches: list[int]
) -> tuple[list[dict[str, float]], NDArray[Any]]:
    """Time every batch size, and evaluate all rows with the largest."""
    config = separate_parties()
    from privacy_pipeline.encrypted.worker import predictor as private
    from privacy_pipeline.encrypted.worker.secure_aby3 import activate
    from privacy_pipeline.encrypted.worker.traffic import traffic

    protocol = activate(config)
    weights = private.share_weights(protocol, model)
    measured = []
    for batch in batches:
        began = time.perf_counter()
        predictor = private.build(model, batch, config, protocol=protocol, weights=weights)
        built = time.perf_counter() - began
        seconds = _seconds(predictor, cut(inputs, 0, batch))
        crossing = traffic(predictor.graph)
        measured.append(
            {
                "batch": batch,
                "build_seconds": built,
                "seconds": seconds,
                "rows_per_second": batch / seconds,
                "bytes_per_call": crossing.sent_bytes,
                "rounds": crossing.rounds,
            }
        )
    rows = len(next(iter(inputs.values())))
    found = [predictor(cut(inputs, start, batches[-1])) for start in range(0, rows, batches[-1])]
    return measured, np.concatenate(found)[:rows]


def separate_parties() -> Any:
    """Return a config whose parties each have a logical device of this process, so that what crosses can be counted.

    Raises:
        PipelineError: TensorFlow started already.
    """
    # Importing TF-Encrypted starts TensorFlow, after which devices cannot be divided any more.
    from privacy_pipeline.encrypted.worker.parties import PARTIES

    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * (len(PARTIES) + 1))
    except RuntimeError as error:
        raise PipelineError("the parties of a simulation are set up before TensorFlow starts") from error
    import tf_encrypted as tfe
    from tf_encrypted.player import Player

    config = tfe.LocalConfig(player_names=[], auto_add_unknown_players=False)
    for index, name in enumerate(PARTIES):
        # The first device is the driver's.
        device = f"/job:localhost/replica:0/task:0/device:CPU:{index + 1}"
        config.players.append(Player(name=name, index=index, device_name=device))
    return config


def _seconds(predictor: Any, rows: Mapping[str, NDArray[Any]]) -> float:
    predictor(rows)
    taken = []
    for _ in range(_CALLS):
        began = time.perf_counter()
        predictor(rows)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
