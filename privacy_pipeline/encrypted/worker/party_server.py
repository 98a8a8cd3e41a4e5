"""Program: the TensorFlow server of one party. It runs any graph that reaches it, so it refuses to run with a network.

python -m privacy_pipeline.encrypted.worker.party_server server0
"""

from __future__ import annotations

import sys

import tensorflow as tf

from privacy_pipeline.encrypted.sandbox.inside import require_loopback_only
from privacy_pipeline.encrypted.worker.parties import EVERYONES_HOSTS, JOB, SERVERS
from privacy_pipeline.errors import PipelineError


def main(name: str) -> None:
    """Serve until it is killed.

    Raises:
        PipelineError: there is a network here, or no secure randomness.
    """
    require_loopback_only()
    # Imports the native module, without which the operations are not known here either.
    from privacy_pipeline.encrypted.worker.secure_aby3 import require_secure_randomness

    require_secure_randomness()
    cluster = tf.train.ClusterSpec({JOB: list(EVERYONES_HOSTS.values())})
    server = tf.distribute.Server(cluster, job_name=JOB, task_index=SERVERS.index(name))
    server.join()


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except PipelineError as error:
        sys.exit(error.message)
