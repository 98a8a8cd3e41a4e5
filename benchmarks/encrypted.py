"""How fast are private predictions: this project's graph against stock TF-Encrypted 0.9.1, both in one process.

Stock is `tfe.keras.Sequential.predict` under its own ABY3, whose compiled calls reuse their masks; ours draws them anew
in every call. All parties are in one process, which is a simulation: no network is measured. Each kind runs in a
process of its own, in turns, and the best median of the rounds counts.

    .venv/bin/python benchmarks/encrypted.py
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NETWORKS = {"20-64-32-1": [20, 64, 32, 1], "Adult MLP (430-64-32-1)": [430, 64, 32, 1]}
BATCHES = (1, 128, 1024)
CALLS = {1: 40, 128: 12, 1024: 6}
ROUNDS = 2
RESULT = Path(__file__).parent / "results" / "encrypted.json"


def main() -> None:
    from privacy_pipeline.encrypted import environment

    best: dict[tuple[str, int, str], dict[str, float]] = {}
    for _ in range(ROUNDS):
        for kind in ("stock", "ours"):
            printed = environment.run([__file__, kind], timeout=1800)
            for row in json.loads(printed.splitlines()[-1]):
                key = (row["network"], row["batch"], kind)
                if key not in best or row["seconds"] < best[key]["seconds"]:
                    best[key] = row
    rows = [{"kind": kind, **row} for (_, _, kind), row in best.items()]
    RESULT.write_text(json.dumps(rows, indent=1) + "\n")
    print("| network | batch | stock ms | ours ms | ours/stock rows a second | build s stock, ours | largest error |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for network in NETWORKS:
        for batch in BATCHES:
            stock, ours = (best[network, batch, kind] for kind in ("stock", "ours"))
            print(
                f"| {network} | {batch} | {stock['seconds'] * 1e3:.1f} | {ours['seconds'] * 1e3:.1f} "
                f"| {stock['seconds'] / ours['seconds']:.2f} | {stock['build']:.1f}, {ours['build']:.1f} "
                f"| {ours['error']:.1e} |"
            )


def measure(kind: str) -> None:
    """One kind, here; prints JSON."""
    rows = []
    for name, sizes in NETWORKS.items():
        random = np.random.default_rng(0)
        weights = [(random.normal(size=(a, b)) / np.sqrt(a), random.normal(size=b)) for a, b in pairs(sizes)]
        for batch in BATCHES:
            x = random.uniform(0, 1, (batch, sizes[0]))
            began = time.perf_counter()
            predict = (ours if kind == "ours" else stock)(weights, batch)
            found = predict(x)
            built = time.perf_counter() - began
            taken = []
            for _ in range(CALLS[batch]):
                began = time.perf_counter()
                predict(x)
                taken.append(time.perf_counter() - began)
            error = float(np.abs(found - plain(weights, x)).max())
            seconds = statistics.median(taken)
            rows.append({"network": name, "batch": batch, "build": built, "seconds": seconds, "error": error})
    print(json.dumps(rows))


def pairs(sizes: list[int]) -> list[tuple[int, int]]:
    return list(itertools.pairwise(sizes))


def plain(weights: list[Any], x: Any) -> Any:
    for number, (kernel, bias) in enumerate(weights):
        x = x @ kernel + bias
        x = np.maximum(x, 0) if number < len(weights) - 1 else x
    return x


def ours(weights: list[Any], batch: int) -> Callable[[Any], Any]:
    from privacy_pipeline.encrypted.model_format import Input, Layer, PrivateModel
    from privacy_pipeline.encrypted.worker.predictor import build, local_config

    layers, held, last = [], {}, "x"
    for number, (kernel, bias) in enumerate(weights):
        name = f"d{number}"
        layers.append(
            Layer(name=name, op="dense", inputs=(last,), weights={"kernel": kernel.shape, "bias": bias.shape})
        )
        held |= {f"{name}/kernel": kernel, f"{name}/bias": bias}
        last = name
        if number < len(weights) - 1:
            last = f"r{number}"
            layers.append(Layer(name=last, op="relu", inputs=(name,)))
    inputs = (Input(name="x", shape=weights[0][0].shape[:1]),)
    model = PrivateModel(inputs=inputs, layers=tuple(layers), output=last, weights=held)
    predictor = build(model, batch, local_config())
    return lambda x: predictor({"x": x})


def stock(weights: list[Any], batch: int) -> Callable[[Any], Any]:
    import tensorflow as tf
    import tf_encrypted as tfe

    tfe.set_config(tfe.LocalConfig(player_names=["server0", "server1", "server2", "weights-provider", "client"]))
    tfe.set_protocol(tfe.protocol.ABY3())
    model = tfe.keras.Sequential()
    for number, (kernel, _) in enumerate(weights):
        activation = "relu" if number < len(weights) - 1 else None
        shape = {"batch_input_shape": [batch, kernel.shape[0]]} if number == 0 else {}
        model.add(tfe.keras.layers.Dense(kernel.shape[1], activation=activation, **shape))
    model.set_weights([part for pair in weights for part in pair])

    def predict(x: Any) -> Any:
        shared = tfe.define_private_input("client", lambda: tf.constant(x, tf.float64))
        return np.asarray(model.predict(shared, batch_size=batch)).reshape(batch, -1)

    return predict


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1])
    else:
        main()
