"""Private predictions of converted models: predict.py FOLDER...; each holds a model and inputs.npz, gets logits.npy.

Prints the largest difference between two calls on the same rows, whose masks and so whose last bits differ.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from privacy_pipeline.encrypted.model import model_format
from privacy_pipeline.encrypted.worker.predictor import build, local_config


def main(folders: list[Path]) -> None:
    differences = {}
    for folder in folders:
        with np.load(folder / "inputs.npz", allow_pickle=False) as archive:
            inputs = {name: archive[name] for name in archive.files}
        model = model_format.load(folder)
        predictor = build(model, len(next(iter(inputs.values()))), local_config())
        first, second = predictor(inputs), predictor(inputs)
        np.save(folder / "logits.npy", first)
        differences[folder.name] = float(np.abs(first - second).max())
    print(json.dumps(differences))


main([Path(argument) for argument in sys.argv[1:]])
