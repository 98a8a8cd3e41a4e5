"""Measure the wait for the next batch, as a share of step time, with 10 million memory-mapped examples on disk.

    python -m benchmarks.dp_sgd_input

Writes 64 float32 an example (2.4 GiB) to a folder that it removes afterwards, and trains a small network 64-256-256-10:
the faster the step, the harder the feed. The wait is the time between the end of one step and the beginning of the
next. Warm: the file is in the page cache. Cold: the cache is dropped before each run, so that rows come from the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from privacy_pipeline.dp import ExampleStore, PrivacyPlan, make_private

WIDTH, CLASSES, CHUNK, WARM_STEPS = 64, 10, 250_000, 5
RESULTS = Path(__file__).parent / "results" / "dp_sgd_input.json"


def chunks(examples: int) -> Iterator[tuple[Any, Any]]:
    random = np.random.default_rng(0)
    for start in range(0, examples, CHUNK):
        rows = min(CHUNK, examples - start)
        yield random.random((rows, WIDTH), dtype=np.float32), random.integers(0, CLASSES, rows)


class Waits(tf.keras.callbacks.Callback):
    """Measures seconds between steps, and in all."""

    sets_no_weights = True

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []
        self.begun = self.ended = 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Note the time at which the batch is ready."""
        if self.ended:
            self.waits.append(time.perf_counter() - self.ended)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Note the time at which the step is done."""
        self.ended = time.perf_counter()
        if len(self.waits) == WARM_STEPS:
            self.begun = self.ended


def drop_cache(folder: Path) -> None:
    """Ask the system to drop the pages of a folder's files."""
    for file in folder.iterdir():
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def share_of_wait(store: ExampleStore, *, batch: int, steps: int) -> tuple[float, float]:
    """Return the share of the time that is spent waiting, and seconds a step."""
    layers = [tf.keras.layers.Dense(size, activation="relu") for size in (256, 256)]
    model = tf.keras.Sequential([tf.keras.layers.InputLayer((WIDTH,)), *layers, tf.keras.layers.Dense(CLASSES)])
    plan = PrivacyPlan.calibrated(
        units=len(store),
        expected_batch_size=batch,
        steps=steps + WARM_STEPS + 1,
        noise_multiplier=1.0,
        delta=1e-8,
        clipping_norm=1.0,
    )
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    clock = Waits()
    make_private(model, plan, optimizer="sgd", loss=loss).fit(store, callbacks=[clock])
    took = clock.ended - clock.begun
    return sum(clock.waits[WARM_STEPS:]) / took, took / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--examples", type=int, default=10_000_000)
    parser.add_argument("--batch", nargs="+", type=int, default=[256, 1024, 4096])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="folder to write to; a temporary one by default")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name) / "store"
        store = ExampleStore.write(folder, chunks(given.examples), examples=given.examples)
        print("| examples | batch | page cache | ms a step | of which waiting for input |\n|---:|---:|---|---:|---:|")
        for cold in (False, True):
            for batch in given.batch:
                if cold:
                    drop_cache(folder)
                    store = ExampleStore.open(folder, like={"x": store.x, "y": store.y})
                    drop_cache(folder)
                share, step = share_of_wait(store, batch=batch, steps=given.steps)
                cache = "cold" if cold else "warm"
                rows.append({"batch": batch, "cache": cache, "seconds_a_step": step, "share_of_wait": share})
                print(f"| {given.examples:,} | {batch} | {cache} | {step * 1e3:.2f} | {share:.1%} |", flush=True)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps({"examples": given.examples, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
