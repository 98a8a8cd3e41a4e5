"""What does it cost to predict rows one at a time, as a DP evaluation does, compared with whole batches?

    python benchmarks/evaluation_rows.py MODEL_DIR EVAL_FILES --rows 100000

MODEL_DIR is a pushed model, EVAL_FILES a pattern of gzipped TFRecord files of raw examples; both lie in the workspace
of a run. Each way runs in its own rounds, one after the other; the best round counts. Prints a table; "told apart"
counts records that have unlike values among 4,096 and 4,095 equal rows.
"""

from __future__ import annotations

import argparse
import glob
import itertools
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from privacy_pipeline.data.schema.features import LABEL_FEATURE
from privacy_pipeline.releases.single_rows import AT_ONCE, SingleRows

_TOLD = 12  # records of which 4,096 and 4,095 copies are predicted
Way = Callable[[NDArray[Any]], NDArray[Any]]


def ways(model: Any) -> dict[str, Way]:
    """Return the ways to predict: each takes records [rows], and gives probabilities [rows]."""

    def both(records: Any) -> dict[str, Any]:
        probability = model.signatures["serving_default"](records)["probability"]
        label = model.signatures["transform_features"](records)[LABEL_FEATURE]
        return {"probability": probability, "label": label}

    single = SingleRows(both, tf.TensorSpec([None], tf.string), what="the model")

    def batched(records: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = both(tf.constant(records))["probability"].numpy().ravel()
        return found

    def called(records: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([batched(records[[place]]) for place in range(len(records))])

    return {
        f"batches of {AT_ONCE:,}": batched,
        "one call a row": called,
        "one row at a time, in a compiled loop": lambda records: single(records)["probability"],
    }


def seconds(way: Way, records: list[bytes], *, rounds: int) -> float:
    """Return the best of several rounds over all records, after one over the first of them."""
    parts = [np.array(records[at : at + AT_ONCE], object) for at in range(0, len(records), AT_ONCE)]
    way(parts[0][:64])
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        for part in parts:
            way(part)
        taken.append(time.perf_counter() - began)
    return min(taken)


def told_apart(way: Way, records: list[bytes]) -> int:
    """Return how many of some records get more than one value among 4,096 and 4,095 copies of themselves."""
    told = 0
    for record in records[:_TOLD]:
        found = [way(np.array([record] * copies, object)) for copies in (AT_ONCE, AT_ONCE - 1)]
        told += len(np.unique(np.concatenate(found))) > 1
    return told


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir")
    parser.add_argument("eval_files")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the larger split, by repetition")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    files = sorted(glob.glob(arguments.eval_files))
    records = list(tf.data.TFRecordDataset(files, compression_type="GZIP").as_numpy_iterator())
    larger = list(itertools.islice(itertools.cycle(records), arguments.rows))
    table = Table("way", "rows a second", f"seconds, {len(records):,}", f"seconds, {len(larger):,}", "told apart")
    for name, way in ways(tf.saved_model.load(arguments.model_dir)).items():
        # One call per row is too slow to be repeated; measure a 32nd of the rows.
        share = 32 if name == "one call a row" else 1
        taken = share * seconds(way, records[: len(records) // share], rounds=arguments.rounds)
        long = share * seconds(way, larger[: len(larger) // share], rounds=1)
        told = "" if share > 1 else f"{told_apart(way, records)} of {_TOLD}"
        table.add_row(name, f"{len(records) / taken:,.0f}", f"{taken:.1f}", f"{long:.1f}", told)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
