"""What each party sees of two queries, over many runs of the compiled graph: views.py PROTOCOL NETWORK RUNS.

The parties get logical devices of their own. The view of a party is every tensor that crosses from another device to
its own, and all that it draws from keys. For each bit of each element, and of sums and differences of some 64-bit
elements taken at random, the largest |z| of a two-sample test of proportions between the two queries is printed.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tensorflow as tf

from privacy_pipeline.encrypted.worker.evaluate import separate_parties
from privacy_pipeline.encrypted.worker.parties import PARTIES

MOST_PAIRED = 60  # elements of a view whose sums and differences are looked at


def device(name: str) -> str:
    return name.rpartition("/")[2].lower()


def view(graph: Any, player: Any) -> list[Any]:
    """Tensors that the party gets from others, and those that it draws."""
    own, found = device(player.device_name), {}
    for operation in graph.get_operations():
        if device(operation.device) != own:
            continue
        for tensor in operation.inputs:
            secret = tensor.dtype.is_integer or tensor.dtype == tf.bool
            if secret and tensor.op.device and device(tensor.op.device) != own:
                found[tensor.name] = tensor
        if operation.type in ("SecureSeededRandomUniform", "SecureSeed"):
            found[operation.outputs[0].name] = operation.outputs[0]
    return list(found.values())


def bits(values: np.ndarray) -> np.ndarray:
    """[runs, elements] of any integer type as [runs, elements * bits]."""
    return np.unpackbits(np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1), axis=1)


def largest(one: np.ndarray, other: np.ndarray) -> tuple[float, int]:
    """Largest |z| between the two samples of bits, and how many bits were compared."""
    runs = len(one)
    p, q = one.mean(0), other.mean(0)
    pooled = (p + q) / 2
    deviation = np.sqrt(np.maximum(2 * pooled * (1 - pooled) / runs, 1e-12))
    return float(np.max(np.abs(p - q) / deviation, initial=0)), len(p)


def flat(samples: list[np.ndarray]) -> np.ndarray:
    return np.stack([sample.ravel() for sample in samples])


def compare(one: list[list[np.ndarray]], other: list[list[np.ndarray]]) -> dict[str, float]:
    """The test over a whole view: `one` and `other` hold the tensors of each run."""
    worst, tests, words = 0.0, 0, ([], [])
    for tensors in zip(zip(*one), zip(*other)):
        first, second = (flat(list(samples)) for samples in tensors)
        z, count = largest(bits(first), bits(second))
        worst, tests = max(worst, z), tests + count
        if first.dtype == np.int64:
            words[0].append(first)
            words[1].append(second)
    first, second = (np.concatenate(columns, axis=1) for columns in words)
    chosen = np.random.default_rng(0).permutation(first.shape[1])[:MOST_PAIRED]
    for index in chosen:
        for sign in (1, -1):
            z, count = largest(*(bits(w[:, chosen] + sign * w[:, [index]]) for w in (first, second)))
            worst, tests = max(worst, z), tests + count
    return {"largest": worst, "tests": tests}


def main(kind: str, network: str, runs: int) -> None:
    # First: importing TF-Encrypted starts TensorFlow, after which devices cannot be divided any more.
    config = separate_parties()
    import tf_encrypted as tfe
    from networks import mlp
    from tensorflow.python.eager.function import ConcreteFunction

    from privacy_pipeline.encrypted.worker import secure_aby3
    from privacy_pipeline.encrypted.worker.predictor import build, encode

    if kind == "ours":
        protocol = secure_aby3.activate(config)
    else:
        tfe.set_config(config)
        protocol = tfe.protocol.ABY3()
        tfe.set_protocol(protocol)
    model = mlp([2, 2], seed=1) if network == "linear" else mlp([2, 2, 1], seed=1)
    predictor = build(model, 1, config, protocol=protocol)
    graph = predictor.graph.graph
    parties = {name: view(graph, config.get_player(name)) for name in PARTIES if name != "weights-provider"}
    answers = list(graph.outputs)
    graph.outputs = answers + [tensor for tensors in parties.values() for tensor in tensors]
    graph.structured_outputs = graph.outputs
    everything = ConcreteFunction(graph)
    collected: dict[str, tuple[list[Any], list[Any]]] = {name: ([], []) for name in parties}
    for _ in range(runs):
        for which, query in enumerate(([[4.0, -4.0]], [[-4.0, 4.0]])):
            encoded = tf.constant(encode(model, {"x": np.array(query)}, batch=1))
            values = [value.numpy() for value in everything._call_flat([encoded], everything.captured_inputs)][
                len(answers) :
            ]
            for name, tensors in parties.items():
                collected[name][which].append([values.pop(0) for _ in tensors])
    # The client knows the answer; what else it sees are shares of it, of which any two are compared as for a server.
    found = {name: {**compare(*both), "messages": len(parties[name])} for name, both in collected.items()}
    print(json.dumps(found))


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
