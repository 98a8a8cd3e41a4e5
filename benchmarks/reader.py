"""Measure the one reader and encoder by rows a second and peak memory, beside the former way: row by row, cell by cell.

    python -m benchmarks.reader                      # a million rows of Adult's columns
    python -m benchmarks.reader --rows 100000 --json reader.json

Rows are made up from the public domains and ranges of `configs/schemas/adult.pbtxt`. Each way turns a file into the
float vectors, labels and keys of an experiment, in a separate process and on one core; imports are not counted, time
is that of the processor. The former way is Python's `csv`, which handles each cell; `reading alone` makes no vectors.
The results of both ways for the first rows are compared, bit by bit.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from federated.clients.encoding import encode
from federated.tables import clients_from_table
from privacy_pipeline.data.reading.csv_table import batches
from privacy_pipeline.data.schema.features import Column, FeaturePlan
from privacy_pipeline.data.schema.schema_reader import read_feature_plan

HERE = Path(__file__).resolve().parent.parent
SCHEMA = HERE / "configs/schemas/adult.pbtxt"
LABEL, KEY = "income", "person"
_FIRST = 2_000  # rows that are compared


def plan() -> FeaturePlan:
    """Return Adult's columns."""
    return read_feature_plan(schema_path=SCHEMA, label=LABEL, positive_class=">50K")


def write(file: Path, rows: int) -> None:
    """Write a CSV file of made-up rows, each person with some of them."""
    features, drawn = plan(), np.random.default_rng(1)
    texts = {KEY: drawn.integers(0, max(1, rows // 5), rows).astype(str)}
    for column in features.columns:
        if column.kind == "categorical":
            texts[column.name] = np.array(column.domain)[drawn.integers(0, len(column.domain), rows)]
        else:
            texts[column.name] = drawn.integers(int(column.minimum or 0), int(column.maximum or 0), rows).astype(str)
    texts[LABEL] = np.array(features.label_domain)[drawn.integers(0, 2, rows)]
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(texts)
        writer.writerows(zip(*texts.values(), strict=True))


def read_alone(file: Path) -> str:
    """Read cells as Arrow batches, and nothing else."""
    return str(sum(cells.num_rows for cells in batches(file=file)))


def read_now(file: Path) -> str:
    """Read as an experiment does: vectors, labels and keys of the clients."""
    store = clients_from_table(file, key=KEY, label=LABEL, plan=plan())
    return str(store.num_examples)


def read_before(file: Path) -> str:
    """Read in the former way: a dictionary for each row, a call for each cell, a list for each vector."""
    features = plan()
    keys, labels, vectors = [], [], []
    with file.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            keys.append(int(row[KEY]))
            labels.append(int(row[LABEL] == features.positive_class))
            vectors.append(np.array(_vector(row, features), np.float32))
    np.argsort(np.array(keys), kind="stable")
    return str(len(np.stack(vectors)))


def _vector(row: dict[str, str], features: FeaturePlan) -> list[float]:
    found: list[float] = []
    for column in features.columns:
        cell = row[column.name]
        found += [_scaled(cell, column)] if column.kind == "numeric" else [float(cell == v) for v in column.domain]
        found += [float(not cell)] * column.optional
    return found


def _scaled(cell: str, column: Column) -> float:
    if not cell:
        return 0.0
    low, high = column.minimum or 0, column.maximum or 0
    return min(max((float(cell) - low) / float(high - low), 0.0), 1.0)


def compared(file: Path) -> None:
    """End the benchmark if the two ways differ."""
    features, before = plan(), []
    with file.open(newline="", encoding="utf-8") as stream:
        for row, _ in zip(csv.DictReader(stream), range(_FIRST), strict=False):
            before.append(_vector(row, features))
    now = encode(features, next(batches(file=file)), name=str(file))[: len(before)]
    if hashlib.sha256(now.tobytes()).digest() != hashlib.sha256(np.array(before, np.float32).tobytes()).digest():
        raise SystemExit("the two ways give different vectors: their times cannot be compared")


WAYS: dict[str, Callable[[Path], str]] = {
    "row by row, cell by cell": read_before,
    "the one reader and encoder": read_now,
    "reading alone": read_alone,
}


def _measured(way: str, file: Path, rows: int) -> dict[str, float]:
    compared(file)  # loads lazy imports
    begin = time.process_time()
    if int(WAYS[way](file)) != rows:
        raise SystemExit(f"{way}: wrong number of rows")
    taken = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows a second a core": round(rows / taken), "peak MiB": round(peak)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.csv")
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:  # a process's peak begins with that of its parent
            pool.apply(write, (file, asked.rows))
        size = file.stat().st_size / 2**20
        found = {}
        for way in WAYS:
            with context.Pool(1) as pool:
                found[way] = pool.apply(_measured, (way, file, asked.rows))
    print(f"{asked.rows:,} rows, {size:.0f} MiB\n\n| way | rows a second a core | peak MiB |\n|---|---:|---:|")
    for way, numbers in found.items():
        print(f"| {way} | {numbers['rows a second a core']:,.0f} | {numbers['peak MiB']:,.0f} |")
    if asked.json is not None:
        asked.json.write_text(json.dumps({"rows": asked.rows, "MiB": round(size), "ways": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
