"""TensorFlow of somebody who has no certificate: outsider.py ADDRESS... Prints what it got from each."""

from __future__ import annotations

import json
import sys

import tensorflow as tf


def main(addresses: list[str]) -> None:
    """Asks each for a sum, as a TensorFlow server would compute it."""
    found = {}
    for number, address in enumerate(addresses):
        job = f"job{number}"
        try:
            tf.config.experimental_connect_to_host([address], job_name=job)
            with tf.device(f"/job:{job}/replica:0/task:0/device:CPU:0"):
                found[address] = f"computed {int((tf.constant(20) + tf.constant(22)).numpy())}"
        except (tf.errors.OpError, RuntimeError, ValueError) as error:
            found[address] = type(error).__name__
    print(json.dumps(found))


main(sys.argv[1:])
