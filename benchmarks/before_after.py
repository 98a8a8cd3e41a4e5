"""Speed of the DP-SGD engine in two checkouts of this project, in one call: they take turns, window by window.

    python -m benchmarks.before_after --before ../another-checkout

Each model trains once in each checkout, in a process of its own that waits while the other one works. A window is some
steps; the ratio is that of the medians, with the middle half of the ratios of neighbouring windows.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

HERE = Path(__file__).resolve().parent.parent
_WARM_STEPS = 10


def worker(name: str, batch: int, steps: int, windows: int) -> None:
    """Trains, and prints the seconds of a window for each line that it reads."""
    import tensorflow as tf

    from benchmarks.dp_sgd_models import make_loss, make_model
    from benchmarks.dp_sgd_shapes import TASKS
    from privacy_pipeline.dp import ExampleStore, PrivacyPlan, make_private

    class Windows(tf.keras.callbacks.Callback):  # type: ignore[misc]
        seen = 0
        begin = 0.0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.seen += 1
            done = self.seen - _WARM_STEPS
            if done >= 0 and done % steps == 0:
                if done:
                    print(time.perf_counter() - self.begin, flush=True)
                else:
                    print("ready", flush=True)
                sys.stdin.readline()
                self.begin = time.perf_counter()

    x, y = TASKS[name].data()
    plan = PrivacyPlan.calibrated(
        units=len(x),
        expected_batch_size=batch,
        steps=_WARM_STEPS + steps * windows,
        noise_multiplier=1.0,
        delta=1e-5,
        clipping_norm=1.0,
    )
    private = make_private(make_model(name), plan, optimizer="sgd", loss=make_loss(name))
    private.fit(ExampleStore.from_arrays(x, y), callbacks=[Windows()])


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A worker of one checkout, which has traced and warmed up."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--worker", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if process.stdout is None or process.stdout.readline().strip() != "ready":
        raise SystemExit(f"the worker of {folder} has ended")
    return process


def window(process: subprocess.Popen[str]) -> float:
    """Seconds of the next window."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def measure(before: Path, name: str, batch: int, steps: int, windows: int) -> str:
    """A row of the table."""
    arguments = name, str(batch), str(steps), str(windows)
    old, new = started(before, *arguments), started(HERE, *arguments)
    seconds = [(window(old), window(new)) for _ in range(windows)]
    for process in (old, new):
        process.kill()
        process.wait()
    low, _, high = quantiles([b / a for a, b in seconds], n=4)
    medians = [1e3 * median(column) / steps for column in zip(*seconds, strict=True)]
    ratio = medians[1] / medians[0]
    return f"| {name} | {batch} | {medians[0]:.2f} | {medians[1]:.2f} | {ratio:.2f} | {low:.2f} to {high:.2f} |"


def main() -> None:
    """Print the table."""
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], *map(int, sys.argv[3:]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="folder of the other checkout")
    parser.add_argument("--models", nargs="+", default=["mnist-cnn", "mlp", "adult", "transformer"])
    parser.add_argument("--batch", nargs="+", type=int, default=[256, 1024])
    parser.add_argument("--steps", type=int, default=10, help="steps of a window")
    parser.add_argument("--windows", type=int, default=20)
    given = parser.parse_args()
    print("| model | batch | ms a step before | after | ratio | middle half |")
    print("|---|---:|---:|---:|---:|---|")
    for name in given.models:
        for batch in given.batch:
            print(measure(given.before.resolve(), name, batch, given.steps, given.windows), flush=True)


if __name__ == "__main__":
    main()
