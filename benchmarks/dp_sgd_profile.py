"""Profile a step of the DP-SGD engine beside a step of plain Keras: milliseconds by part, and counted operations.

    python -m benchmarks.dp_sgd_profile                  # MLP and Adult at batch 256, 1,024 and 4,096

"graph" is TensorFlow alone on a batch that is ready, with nothing else running; a second thread prepares batch rows,
noise and sample meanwhile on the same cores. "floor" is the least step on these cores over plain's: the graph keeps all
cores busy, so the preparation adds its time divided by their number. Medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks.dp_sgd_models import make_loss, make_model
from benchmarks.dp_sgd_models import ours as timed_ours
from benchmarks.dp_sgd_models import plain as timed_plain
from benchmarks.dp_sgd_shapes import TASKS
from privacy_pipeline.dp import ExampleStore, PrivacyPlan, make_private
from privacy_pipeline.dp.graphs.randomness import RunKey
from privacy_pipeline.dp.sampling.feeding import Reader

_TURNS = 60


def _milliseconds(*parts: Callable[[], Any]) -> list[float]:
    """Return the median time of each part; the parts take turns."""
    taken: list[list[float]] = [[] for _ in parts]
    for turn in range(_TURNS + 5):
        for place, part in enumerate(parts):
            begin = time.perf_counter()
            part()
            if turn >= 5:
                taken[place].append(1e3 * (time.perf_counter() - begin))
    return [statistics.median(times) for times in taken]


def _operations(function: Any, *specs: Any) -> float:
    """Return the floating-point operations of a graph, by TensorFlow's own counts."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2_as_graph

    graph = convert_variables_to_constants_v2_as_graph(tf.function(function).get_concrete_function(*specs))[1]
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    with tf.Graph().as_default() as imported:
        tf.graph_util.import_graph_def(graph, name="")
        return float(tf.compat.v1.profiler.profile(imported, options=options).total_float_ops)


def profile(name: str, batch: int) -> dict[str, float]:
    """Return milliseconds by part of a step, and millions of operations."""
    x, y = TASKS[name].data()
    model = make_model(name)
    model.compile("sgd", make_loss(name))
    step = model.make_train_function()
    ready = tf.data.Dataset.from_tensors((tf.constant(x[:batch]), tf.constant(y[:batch]))).repeat()
    batches = iter(ready)

    plan = PrivacyPlan.calibrated(
        units=len(x), expected_batch_size=batch, steps=10_000, noise_multiplier=1.0, delta=1e-5, clipping_norm=1.0
    )
    private = make_private(make_model(name), plan, optimizer="sgd", loss=make_loss(name))
    store = ExampleStore.from_arrays(x, y)
    program = private._program(store)
    shapes = [tuple(variable.shape) for variable in private.model.trainable_variables]
    reader = Reader.of(plan, store, RunKey.from_system(), shapes)
    noise = reader.noise.flat(0, stddev=1e-9)
    present, seed = np.ones(batch, bool), np.zeros(2, np.int64)
    index = np.sort(np.random.default_rng(0).choice(len(x), batch, replace=False))
    rows, labels = store.rows(index)
    numbers = iter(range(1_000_000))
    found = _milliseconds(
        lambda: step(batches),
        lambda: program.run(rows, labels, present, noise, seed),
        lambda: store.rows(index),
        lambda: reader.noise.flat(next(numbers), stddev=1e-9),
        lambda: reader.sampler.batch(next(numbers)),
    )
    whole = [0.0, 0.0]
    for _ in range(3):
        for place, timed in enumerate((timed_plain, timed_ours)):
            whole[place] = max(whole[place], timed(name, x, y, batch)(_TURNS))
    parts = ("plain graph", "our graph", "rows", "noise", "sample")
    return {
        **dict(zip(parts, found, strict=True)),
        "plain step": 1e3 * batch / whole[0],
        "our step": 1e3 * batch / whole[1],
        **_counts(name, batch, program),
    }


def _counts(name: str, batch: int, program: Any) -> dict[str, float]:
    x, y = TASKS[name].data(batch)
    x_spec, y_spec = tf.TensorSpec(x.shape, x.dtype), tf.TensorSpec(y.shape, y.dtype)
    model, loss = make_model(name), make_loss(name)

    def gradient(a: Any, b: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(b, model(a, training=True))
        return tape.gradient(value, model.trainable_variables)

    def clipped(a: Any, b: Any) -> Any:
        return program._clipper.clipped(a, b, training=True, present=tf.ones([batch], tf.bool), norm=None, scale=1.0)

    return {
        "plain operations": _operations(gradient, x_spec, y_spec) / 1e6,
        "our operations": _operations(clipped, x_spec, y_spec) / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(TASKS), default=["mlp", "adult"])
    parser.add_argument("--batch", nargs="+", type=int, default=[256, 1024, 4096])
    given = parser.parse_args()
    print(
        "| model | batch | plain: step | its graph | ours: step | its graph | batch rows | noise | sample "
        "| operations | floor | measured |"
    )
    print("|---|" + "---:|" * 11)
    for name in given.models:
        for batch in given.batch:
            p = profile(name, batch)
            times = ("plain step", "plain graph", "our step", "our graph", "rows", "noise", "sample")
            shown = " | ".join(f"{p[part]:.2f}" for part in times)
            more = p["our operations"] / p["plain operations"]
            ahead = (p["rows"] + p["noise"] + p["sample"]) / (os.cpu_count() or 1)
            floor, measured = (p["our graph"] + ahead) / p["plain step"], p["our step"] / p["plain step"]
            print(f"| {name} | {batch} | {shown} | {more:.3f} | {floor:.2f} | {measured:.2f} |", flush=True)


if __name__ == "__main__":
    main()
