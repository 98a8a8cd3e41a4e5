"""What a graph over stores must not do: raw bytes, placement, and masks, in one process. stored.py FOLDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from privacy_pipeline.encrypted.worker.evaluate import separate_parties
from privacy_pipeline.errors import PipelineError

SERVER = "/job:localhost/replica:0/task:0/device:CPU:1"
OTHER = "/job:localhost/replica:0/task:0/device:CPU:2"


def raw(scratch: Path) -> bool:
    """Integers of all sizes come back from a file."""
    from privacy_pipeline.encrypted.worker.stored import raw_bytes

    values = np.random.default_rng(0).integers(-(2**63), 2**63, size=(3, 5, 2), dtype=np.int64)
    values[0, 0] = [0, -1]
    tf.io.write_file(str(scratch / "raw"), raw_bytes(tf.constant(values)))
    return (scratch / "raw").read_bytes() == values.astype("<i8").tobytes()


def placement(build: Any) -> str:
    """What is said of a graph."""
    from privacy_pipeline.encrypted.worker.stored import require_placement

    graph = tf.compat.v1.wrap_function(build, [tf.TensorSpec([], tf.string)]).graph
    try:
        require_placement(graph, {SERVER, OTHER})
    except PipelineError as error:
        return error.message
    return "accepted"


def on_servers(path: Any) -> Any:
    """Reads on one server, and adds on the other."""
    with tf.device(SERVER):
        read = tf.io.decode_raw(tf.io.read_file(path), tf.int64)
    with tf.device(OTHER):
        return read + 1


def at_the_driver(path: Any) -> Any:
    """Adds where nothing was said of a place."""
    with tf.device(SERVER):
        read = tf.io.decode_raw(tf.io.read_file(path), tf.int64)
    return read + 1


def in_a_function(path: Any) -> Any:
    """Hides it in a function that the graph calls."""
    with tf.device(SERVER):
        read = tf.io.decode_raw(tf.io.read_file(path), tf.int64)
        return tf.function(lambda x: x + 1)(read)


def secure(config: Any, weak: str) -> str:
    """What is said of three servers of which one may draw the same key again and again."""
    from tf_encrypted.operations import secure_random

    from privacy_pipeline.encrypted.worker.secure_aby3 import activate
    from privacy_pipeline.encrypted.worker.stored import require_secure_servers

    protocol = activate(config)
    good = secure_random.secure_seed

    def seed(*arguments: Any, **more: Any) -> Any:
        drawn = good(*arguments, **more)
        return tf.zeros_like(drawn) if protocol.servers[1].device_name == drawn.device and weak else drawn

    secure_random.secure_seed = seed
    try:
        require_secure_servers(protocol)
    except PipelineError as error:
        return error.message
    finally:
        secure_random.secure_seed = good
    return "accepted"


def main(scratch: Path) -> None:
    """Prints what was found."""
    config = separate_parties()
    servers = {weak: secure(config, weak) for weak in ("", "server1")}
    found = {
        "servers": servers,
        "raw": raw(scratch),
        "placement": {case.__name__: placement(case) for case in (on_servers, at_the_driver, in_a_function)},
    }
    print(json.dumps(found))


main(Path(sys.argv[1]))
