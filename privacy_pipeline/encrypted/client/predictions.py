"""What a client writes of its answers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.data.schema.features import FeaturePlan
from privacy_pipeline.encrypted.client.client import probabilities
from privacy_pipeline.files.atomic import write_atomically
from privacy_pipeline.text.shown_text import visible


def write(path: Path, *, logits: NDArray[np.float64], lines: Sequence[int], features: FeaturePlan) -> None:
    """Write a CSV: the line of each row in the client's file, its logit and its probability.

    Args:
        path: replaced as a whole.
        logits: [rows, 1]; or [rows, classes], then there is a logit and a probability for each class.
        lines: of the rows.
        features: names the class whose probability it is.

    Raises:
        BadInputError: the file cannot be written.
    """
    flat = logits.reshape(len(logits), -1)
    single = flat.shape[1] == 1
    names = [visible(str(features.positive_class))] if single else [str(number) for number in range(flat.shape[1])]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["line", *(f"logit({name})" for name in names), *(f"probability({name})" for name in names)])
    for line, row, chances in zip(lines, flat.tolist(), probabilities(flat).tolist(), strict=True):
        table.writerow([line, *(f"{value:.9g}" for value in row), *(f"{value:.9g}" for value in chances)])
    write_atomically(path=path, text=text.getvalue())
