"""Examples a second of DP-SGD engines beside plain Keras, all in one run, on made-up data of MNIST's shape.

    python benchmarks/dp_sgd.py --batch 64 256 1024 --repeats 3

Models: the MNIST tutorial network of TensorFlow Privacy, and an MLP 784-256-256-10. Engines: plain `fit`, this
package's engine (Poisson batches, drawn and fed as in training), and TensorFlow Privacy's two (fixed batches). Each
engine is timed after its graph was built and warmed up, engines take turns, and the best of the repeats counts, since
other work on a shared machine can only slow a run down. Sampled examples are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from privacy_pipeline.dp import ExampleStore, PrivacyPlan, make_private

_Layers = tf.keras.layers
_UNITS = 60_000
_WARM_STEPS = 5
RESULTS = Path(__file__).parent / "results" / "dp_sgd.json"


def cnn() -> list[Any]:
    return [
        _Layers.Conv2D(16, 8, strides=2, padding="same", activation="relu", input_shape=(28, 28, 1)),
        _Layers.MaxPool2D(2, 1),
        _Layers.Conv2D(32, 4, strides=2, padding="valid", activation="relu"),
        _Layers.MaxPool2D(2, 1),
        _Layers.Flatten(),
        _Layers.Dense(32, activation="relu"),
        _Layers.Dense(10),
    ]


def mlp() -> list[Any]:
    return [
        _Layers.Flatten(input_shape=(28, 28, 1)),
        _Layers.Dense(256, activation="relu"),
        _Layers.Dense(256, activation="relu"),
        _Layers.Dense(10),
    ]


MODELS: dict[str, Callable[[], list[Any]]] = {"cnn": cnn, "mlp": mlp}
Timed = Callable[[int], float]


def loss(reduction: str = "auto") -> Any:
    return tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)


class Clock(tf.keras.callbacks.Callback):
    """Seconds between the end of the warm-up and the end of the last batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.begin = self.end = 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Looks at the clock."""
        self.seen += 1
        self.end = time.perf_counter()
        if self.seen == _WARM_STEPS:
            self.begin = self.end


def keras_engine(model: Any, x: Any, y: Any, batch: int) -> Timed:
    """`fit` of a compiled model; also TensorFlow Privacy's."""

    def run(steps: int) -> float:
        clock = Clock()
        rows = (steps + _WARM_STEPS) * batch
        index = np.arange(rows) % len(x)
        model.fit(x[index], y[index], batch_size=batch, epochs=1, verbose=0, shuffle=False, callbacks=[clock])
        return steps * batch / (clock.end - clock.begin)

    return run


def plain(layers: list[Any], x: Any, y: Any, batch: int) -> Timed:
    model = tf.keras.Sequential(layers)
    model.compile("sgd", loss())
    return keras_engine(model, x, y, batch)


def tfp_sequential(layers: list[Any], x: Any, y: Any, batch: int) -> Timed:
    from tensorflow_privacy import DPSequential

    # Without a layer registry, as in its tutorial: convolutions have no fast form there.
    model = DPSequential(l2_norm_clip=1.0, noise_multiplier=1.0, num_microbatches=batch, layers=layers)
    model.compile("sgd", loss("none"))
    return keras_engine(model, x, y, batch)


def tfp_vectorized(layers: list[Any], x: Any, y: Any, batch: int) -> Timed:
    from tensorflow_privacy import VectorizedDPKerasSGDOptimizer

    model = tf.keras.Sequential(layers)
    optimizer = VectorizedDPKerasSGDOptimizer(
        l2_norm_clip=1.0, noise_multiplier=1.0, num_microbatches=batch, learning_rate=0.01
    )
    model.compile(optimizer, loss("none"))
    return keras_engine(model, x, y, batch)


def ours(layers: list[Any], x: Any, y: Any, batch: int) -> Timed:
    model = tf.keras.Sequential(layers)
    store = ExampleStore.from_arrays(x, y)

    def run(steps: int) -> float:
        plan = PrivacyPlan.calibrated(
            units=len(x),
            expected_batch_size=batch,
            steps=steps + _WARM_STEPS,
            noise_multiplier=1.0,
            delta=1e-5,
            clipping_norm=1.0,
        )
        clock = Clock()
        # Expected examples: what was drawn is no business of a caller, and over many steps the two agree.
        make_private(model, plan, optimizer="sgd", loss=loss()).fit(store, callbacks=[clock])
        return steps * batch / (clock.end - clock.begin)

    return run


ENGINES: dict[str, Callable[..., Timed]] = {
    "plain Keras": plain,
    "ours": ours,
    "TF Privacy DPSequential": tfp_sequential,
    "TF Privacy vectorized": tfp_vectorized,
}


def measure(name: str, batch: int, *, repeats: int, seconds: float, engines: list[str]) -> dict[str, float]:
    """Examples a second of each engine on one model."""
    random = np.random.default_rng(0)
    x = random.uniform(size=(_UNITS, 28, 28, 1)).astype(np.float32)
    y = random.integers(0, 10, _UNITS).astype(np.int64)
    timed = {engine: ENGINES[engine](MODELS[name](), x, y, batch) for engine in engines}
    steps = {}
    for engine, run in timed.items():
        speed = run(3)
        steps[engine] = int(min(400, max(3, seconds * speed / batch)))
    best = dict.fromkeys(engines, 0.0)
    for _ in range(repeats):
        for engine, run in timed.items():
            best[engine] = max(best[engine], run(steps[engine]))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--batch", nargs="+", type=int, default=[256])
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="rough length of one timing")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    print(f"{'model':6}{'batch':>7}  {'engine':26}{'examples/s':>12}{'time vs plain':>15}{'ours is x faster':>18}")
    for name in arguments.models:
        for batch in arguments.batch:
            speeds = measure(
                name, batch, repeats=arguments.repeats, seconds=arguments.seconds, engines=arguments.engines
            )
            for engine, speed in speeds.items():
                slower = speeds.get("plain Keras", float("nan")) / speed
                faster = speeds.get("ours", float("nan")) / speed
                print(f"{name:6}{batch:7}  {engine:26}{speed:12,.0f}{slower:15.2f}{faster:18.2f}", flush=True)
                rows.append({"model": name, "batch": batch, "engine": engine, "examples_per_second": speed})
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"tensorflow": tf.__version__, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
