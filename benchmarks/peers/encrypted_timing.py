"""The job of every engine of benchmarks/encrypted.py: build, answer, take times, print a row per batch size."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FEWEST, MOST = 3, 50  # calls that are timed


def measure(
    folder: Path, make: Callable[[int], tuple[Callable[[Any], Any], dict[str, Any]]], *, calls: int | None = None
) -> None:
    """Print the rows.

    Args:
        folder: folder of the job.
        make: returns for a batch size a function from rows to logits, and further entries of the row.
        calls: number of timed calls, if several processes must agree; by default as many as fit the job's seconds.
    """
    job = json.loads((folder / "job.json").read_text())
    for batch in job["batches"]:
        with np.load(folder / f"rows{batch}.npz", allow_pickle=False) as archive:
            x, expected = archive["x"], archive["expected"]
        began = time.perf_counter()
        predict, more = make(batch)
        found = np.asarray(predict(x)).reshape(expected.shape)
        built = time.perf_counter() - began
        taken: list[float] = []
        while len(taken) < (calls or FEWEST) or (not calls and sum(taken) < job["seconds"] and len(taken) < MOST):
            began = time.perf_counter()
            predict(x)
            taken.append(time.perf_counter() - began)
        row = {
            "batch": batch,
            "build": built,
            "seconds": statistics.median(taken),
            "fastest": min(taken),
            "calls": len(taken),
            "error": float(np.abs(found - expected).max()),
        }
        print(json.dumps({**row, **more}), flush=True)
