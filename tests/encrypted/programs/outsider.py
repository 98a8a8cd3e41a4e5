"""TensorFlow of somebody who has no certificate: outsider.py ADDRESS. Prints what it got from there.

First it asks a server without protection that it starts itself, so that one sees that it could.
"""

from __future__ import annotations

import socket
import sys

import tensorflow as tf


def asked(address: str, job: str) -> str:
    """A sum, as the TensorFlow server there computes it."""
    tf.config.experimental_connect_to_host([address], job_name=job)
    with tf.device(f"/job:{job}/replica:0/task:0/device:CPU:0"):
        return f"computed {int((tf.constant(20) + tf.constant(22)).numpy())}"


def main(address: str) -> None:
    """Asks, and says what came of it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = f"127.0.0.1:{free.getsockname()[1]}"
    server = tf.distribute.Server(tf.train.ClusterSpec({"own": [own]}), job_name="own", task_index=0)
    print(server.target, asked(own, "own"), flush=True)
    try:
        print("reached", asked(address, "theirs"), flush=True)
    except tf.errors.OpError as error:
        print("refused", type(error).__name__, flush=True)


main(sys.argv[1])
