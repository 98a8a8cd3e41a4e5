"""One server's attack on two queries of a compiled model: attack.py stock|ours|ours-keras|ours-reused.

Server 1 subtracts what it saw in the truncation after the first matrix product: on stock c0 (from server 0) and its
share x1, on ours the value that is opened to servers 0 and 1. With the same masks in both calls these differ by exactly
the difference of the secret products; `ours-reused` is ours with its masks' keys made constants, to show that.
"""

from __future__ import annotations

import inspect
import json
import sys
from typing import Any

import numpy as np
import tensorflow as tf
import tf_encrypted as tfe
from tensorflow.python.eager.function import ConcreteFunction
from tf_encrypted.operations import secure_random
from tf_encrypted.protocol.aby3 import aby3

from privacy_pipeline.encrypted.model.layers import Input, Layer
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.encrypted.worker.predictor import build, encode, local_config
from privacy_pipeline.encrypted.worker.secure_aby3 import activate

WEIGHTS = np.array([[1.0, -2.0, 0.5], [0.5, 3.0, 1.0], [2.0, 0.0, -1.0]])
QUERIES = [[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]]
seen: list[tuple[Any, Any]] = []


def tap(c0: Any, x1: Any) -> None:
    """Makes the graph note what server 1 holds."""

    def note(one: Any, other: Any) -> Any:
        seen.append((one.numpy().copy(), other.numpy().copy()))
        return np.int64(0)

    tf.py_function(note, [c0, x1], tf.int64)


def wiretap() -> None:
    """Adds the tap to TF-Encrypted's truncation, whose results stay what they are."""
    name, place = "_truncate_msb0_secureq8_private", "c_on_1 = c0 + c1"
    source = inspect.getsource(getattr(aby3, name))
    assert source.count(place) == 1
    source = source.replace(place, f"{place}\n            _tap(c0.value, x1.value)")
    aby3._tap = tap
    exec(source, aby3.__dict__)


def keras_predictor() -> Any:
    model = tfe.keras.Sequential()
    model.add(tfe.keras.layers.Dense(3, activation=None, batch_input_shape=[1, 3], use_bias=False))
    model.set_weights([WEIGHTS])

    def predict(query: list[float]) -> Any:
        shared = tfe.define_private_input("prediction-client", lambda: tf.constant([query], tf.float64))
        return model.predict(shared, batch_size=1)

    return predict


def our_predictor(config: Any) -> Any:
    layer = Layer(name="dense", op="dense", inputs=("x",), weights={"kernel": (3, 3)})
    model = PrivateModel(
        inputs=(Input(name="x", shape=(3,)),), layers=(layer,), output="dense", weights={"dense/kernel": WEIGHTS}
    )
    predictor = build(model, 1, config)
    graph = predictor.graph.graph
    # Both servers that learn the opened value compute it.
    opened, again = (op.outputs[0] for op in graph.get_operations() if op.name.rpartition("/")[2].startswith("opened"))
    graph.outputs = [*graph.outputs, opened, again]
    graph.structured_outputs = graph.outputs
    everything = ConcreteFunction(graph)

    def predict(query: list[float]) -> Any:
        encoded = tf.constant(encode(model, {"x": np.array([query])}, batch=1))
        answer, one, other = (value.numpy() for value in everything._call_flat([encoded], everything.captured_inputs))
        assert np.array_equal(one, other)
        seen.append((one, np.zeros_like(one)))
        return answer

    return predict


def reuse_keys() -> None:
    """Undoes the mend: keys are drawn when the graph is built, as stock does, and not when it runs."""
    secure_seed = secure_random.secure_seed

    def constant(name: str | None = None) -> Any:
        with tf.init_scope():
            drawn = secure_seed().numpy()
        return tf.constant(drawn)

    secure_random.secure_seed = constant


def main(kind: str) -> None:
    wiretap()
    config = local_config()
    if kind == "stock":
        tfe.set_config(config)
        tfe.set_protocol(tfe.protocol.ABY3())
        predict = keras_predictor()
    elif kind == "ours-keras":
        activate(config)
        predict = keras_predictor()
    else:
        if kind == "ours-reused":
            reuse_keys()
        predict = our_predictor(config)
    views, answers = [], []
    for query in QUERIES:
        seen.clear()
        answers.append(np.asarray(predict(query)).tolist())
        views.append(seen[0])
    (c0, x1), (d0, y1) = views
    print(
        json.dumps(
            {
                "reconstructed": (((c0 - d0) + (x1 - y1)) / 2.0**32).ravel().tolist(),
                "true": (np.subtract(*np.array(QUERIES)) @ WEIGHTS).tolist(),
                "answers": answers,
                "expected": (np.array(QUERIES) @ WEIGHTS)[:, None].tolist(),
            }
        )
    )


main(sys.argv[1])
