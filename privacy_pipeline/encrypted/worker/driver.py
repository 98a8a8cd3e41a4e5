"""Program: drives the three servers. Holds no share and no weight; who runs it could ask for them (threat model).

    python -m privacy_pipeline.encrypted.worker.driver [--simulate STORE0 STORE1 STORE2]

It runs in a namespace without a network, from which tunnels lead to the servers: `encrypted/serving/driving.py`
starts it.

JSON lines on standard input, one answer each on standard output:

    {"op": "load", "model": FOLDER, "digest": SHA256}    the architecture; the servers read their shares of the weights
    {"op": "build", "bucket": 128}                       the graph for batches of this many rows
    {"op": "run", "bucket": 128, "batch": ID}            the servers evaluate a batch in their stores
    {"op": "quit"}

An answer is {"ok": true, "seconds": S}, that to `build` with the `rounds` and `sent_bytes` of the graph (`traffic.py`);
or {"ok": false, "error": ONE LINE}. With --simulate all servers are in this process, which then protects nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import tensorflow as tf

from privacy_pipeline.encrypted.model import model_format
from privacy_pipeline.encrypted.sandbox.inside import require_loopback_only
from privacy_pipeline.encrypted.worker.parties import EVERYONES_HOSTS, JOB, SERVERS
from privacy_pipeline.errors import PipelineError

Request = Mapping[str, Any]


class Driver:
    """The state between requests: one network, and a graph for each bucket."""

    def __init__(self, protocol: Any, stores: Any) -> None:
        self._protocol, self._stores = protocol, stores
        self._model: model_format.PrivateModel | None = None
        self._weights: Mapping[str, Any] = {}
        self._graphs: dict[int, Any] = {}

    def answer(self, request: Request) -> dict[str, Any]:
        """Do what is asked; what went wrong is part of the answer."""
        began = time.perf_counter()
        from privacy_pipeline.encrypted.worker import stored

        handlers: dict[str, Callable[[Request], dict[str, int]]] = {
            "load": self._load,
            "build": self._build,
            "run": self._run,
        }
        try:
            found = handlers[request["op"]](request)
        except KeyError as error:
            return {"ok": False, "error": f"the request has no or an unknown {error}"}
        except tf.errors.OpError as error:
            return {"ok": False, "error": f"the servers failed: {stored.why(error)}"}
        except PipelineError as error:
            return {"ok": False, "error": " ".join(error.message.split())}
        return {"ok": True, "seconds": time.perf_counter() - began, **found}

    def _load(self, request: Request) -> dict[str, int]:
        from privacy_pipeline.encrypted.worker import stored

        model = model_format.load_architecture(Path(request["model"]), digest=request["digest"])
        stored.require_secure_servers(self._protocol)
        self._model, self._graphs = None, {}
        self._weights = stored.load_weights(self._protocol, model, self._stores)
        self._model = model
        return {}

    def _build(self, request: Request) -> dict[str, int]:
        from privacy_pipeline.encrypted.worker import stored
        from privacy_pipeline.encrypted.worker.traffic import traffic

        if self._model is None:
            raise PipelineError("no model is loaded")
        bucket = request["bucket"]
        if not isinstance(bucket, int) or bucket < 1:
            raise PipelineError(f"{bucket!r} is not a number of rows")
        self._graphs[bucket] = stored.StoredPredictor(
            self._protocol, self._model, self._weights, stores=self._stores, bucket=bucket
        )
        crossing = traffic(self._graphs[bucket].graph)
        return {"rounds": crossing.rounds, "sent_bytes": crossing.sent_bytes}

    def _run(self, request: Request) -> dict[str, int]:
        if request["bucket"] not in self._graphs:
            raise PipelineError(f"no graph is built for {request['bucket']} rows")
        self._graphs[request["bucket"]](request["batch"])
        return {}


def local_driver(roots: list[Path]) -> Driver:
    """Return a driver with all servers in this process, for simulations."""
    from privacy_pipeline.encrypted.worker.evaluate import separate_parties

    return _driver(separate_parties(), roots)


def remote_driver() -> Driver:
    """Return a driver of servers that the loopback leads to.

    Raises:
        PipelineError: there is another network, or no secure randomness.
    """
    require_loopback_only()
    import tf_encrypted as tfe

    from privacy_pipeline.encrypted.worker.secure_aby3 import require_secure_randomness

    require_secure_randomness()
    config = tfe.RemoteConfig(OrderedDict(EVERYONES_HOSTS), job_name=JOB)
    config.connect_servers()
    return _driver(config, [Path()] * len(SERVERS))


def _driver(config: Any, roots: list[Path]) -> Driver:
    from privacy_pipeline.encrypted.worker.secure_aby3 import activate
    from privacy_pipeline.encrypted.worker.stored import Stores

    return Driver(activate(config), Stores(roots=tuple(roots)))


def serve(driver: Driver, requests: TextIO, answers: TextIO) -> None:
    """Answer requests until the input ends or has `quit`."""
    for line in requests:
        request = json.loads(line)
        if request.get("op") == "quit":
            return
        print(json.dumps(driver.answer(request)), file=answers, flush=True)


def main(arguments: list[str]) -> None:
    """Run the program."""
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    parser = argparse.ArgumentParser()
    parser.add_argument("--simulate", nargs=len(SERVERS), type=Path, metavar="STORE")
    stores = parser.parse_args(arguments).simulate
    serve(local_driver(stores) if stores else remote_driver(), sys.stdin, answers)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PipelineError as error:
        sys.exit(error.message)
