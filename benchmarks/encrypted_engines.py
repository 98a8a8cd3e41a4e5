"""Ours and stock TF-Encrypted for benchmarks/encrypted.py: encrypted_engines.py ours|stock|count FOLDER."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from encrypted_timing import measure

from privacy_pipeline.encrypted.model.layers import Layer
from privacy_pipeline.encrypted.model.model_format import PrivateModel, load

Made = tuple[Callable[[Any], Any], dict[str, Any]]


def ours(model: PrivateModel) -> Callable[[int], Made]:
    from privacy_pipeline.encrypted.worker.predictor import build, local_config, share_weights
    from privacy_pipeline.encrypted.worker.secure_aby3 import activate

    config = local_config()
    protocol = activate(config)
    weights = share_weights(protocol, model)

    def make(batch: int) -> Made:
        predictor = build(model, batch, config, protocol=protocol, weights=weights)
        return lambda x: predictor({"x": x}), {}

    return make


def count(model: PrivateModel, batches: list[int]) -> None:
    """Read rounds and bytes of ours off graphs in which each party has its own device. Nothing is timed."""
    from privacy_pipeline.encrypted.worker.evaluate import separate_parties

    config = separate_parties()
    from privacy_pipeline.encrypted.worker.predictor import build, share_weights
    from privacy_pipeline.encrypted.worker.secure_aby3 import activate
    from privacy_pipeline.encrypted.worker.traffic import traffic

    protocol = activate(config)
    weights = share_weights(protocol, model)
    for batch in batches:
        crossing = traffic(build(model, batch, config, protocol=protocol, weights=weights).graph)
        print(json.dumps({"batch": batch, "rounds": crossing.rounds, "bytes": crossing.sent_bytes}), flush=True)


def stock(model: PrivateModel) -> Callable[[int], Made]:
    import tensorflow as tf
    import tf_encrypted as tfe

    tfe.set_config(tfe.LocalConfig(player_names=["server0", "server1", "server2", "weights-provider", "client"]))
    tfe.set_protocol(tfe.protocol.ABY3())

    def make(batch: int) -> Made:
        network = tfe.keras.Sequential()
        for number, layer in enumerate(model.layers):
            shape = {"batch_input_shape": [batch, *model.inputs[0].shape]} if number == 0 else {}
            network.add(stock_layer(tfe.keras.layers, layer, shape))
        held = [f"{one.name}/{role}" for one in model.layers if one.weights for role in ("kernel", "bias")]
        network.set_weights([model.weights[name] for name in held])

        def predict(x: Any) -> Any:
            shared = tfe.define_private_input("client", lambda: tf.constant(x, tf.float64))
            return np.asarray(network.predict(shared, batch_size=batch))

        return predict, {}

    return make


def stock_layer(layers: Any, layer: Layer, shape: dict[str, Any]) -> Any:
    if layer.op == "dense":
        return layers.Dense(layer.weights["kernel"][1], activation=None, **shape)
    if layer.op == "conv2d":
        size, _, _, filters = layer.weights["kernel"]
        return layers.Conv2D(filters, size, layer.config["strides"][0], padding=layer.config["padding"], **shape)
    if layer.op == "max_pool":
        return layers.MaxPooling2D(layer.config["pool"][0])
    return layers.ReLU() if layer.op == "relu" else layers.Flatten(**shape)


def main(kind: str, folder: Path) -> None:
    model = load(folder / "model")
    if kind == "count":
        count(model, json.loads((folder / "job.json").read_text())["batches"])
        return
    measure(folder, (ours if kind == "ours" else stock)(model))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
