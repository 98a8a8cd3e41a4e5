"""A driver without TensorFlow: driver.py SCRATCH. It joins the shares of the three stores, which no real one may.

Like the real one it fails when a server is gone or another process, and waits for ever while one is stopped.
SCRATCH/say holds what goes wrong on purpose: "corrupt" a share of an answer, or "fail".
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

from privacy_pipeline.encrypted.model import model_format, reference, shares
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.encrypted.worker.parties import SERVERS
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.processes.die_with_parent import die_with_parent


class Driver:
    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.stores = [scratch / name / "store" for name in SERVERS]
        self.pids: list[str] = []
        self.model: PrivateModel | None = None
        self.buckets: set[int] = set()

    def look(self) -> list[str]:
        """Process ids of the servers, once none of them is stopped."""
        found = []
        for name in SERVERS:
            pid = (self.scratch / name / "pid").read_text()
            while (state := Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]) == "T":
                time.sleep(0.05)
            if state == "Z":
                raise ProcessLookupError(f"{name} is gone")
            found.append(pid)
        return found

    def joined(self, stem: Path, shape: tuple[int, ...]) -> shares.Ring:
        pairs = []
        for store in self.stores:
            pair = [shares.from_bytes(shares.half(store / stem, number).read_bytes(), shape) for number in range(2)]
            pairs.append((pair[0], pair[1]))
        return shares.join(pairs)

    def load(self, request: dict) -> None:
        self.pids = self.look()
        public = model_format.load_architecture(Path(request["model"]), digest=request["digest"])
        weights = {
            f"{layer.name}/{role}": shares.decode(
                self.joined(shares.weight_stem(layer.name, role), shape), scale=public.weight_scale(layer, role)
            )
            for layer in public.layers
            for role, shape in layer.weights.items()
        }
        self.model = dataclasses.replace(public, weights=weights)

    def build(self, request: dict) -> dict[str, int]:
        self.buckets.add(request["bucket"])
        return {"rounds": 7, "sent_bytes": 100 * request["bucket"]}

    def run(self, request: dict) -> None:
        if self.look() != self.pids or request["bucket"] not in self.buckets or self.model is None:
            raise PipelineError("the servers failed: one was started anew")
        with (self.scratch / "buckets").open("a") as log:
            log.write(f"{request['bucket']}\n")
        say = (self.scratch / "say").read_text() if (self.scratch / "say").exists() else ""
        if say == "fail":
            raise PipelineError("the servers failed: as they were told")
        bucket, batch = request["bucket"], request["batch"]
        inputs = {
            one.name: shares.decode(
                self.joined(shares.input_stem(batch, one.name), (bucket, *shares.encoded_shape(one))),
                scale=one.scale,
            )
            for one in self.model.inputs
        }
        inputs |= {one.name: inputs[one.name].argmax(axis=-1) for one in self.model.inputs if one.vocabulary}
        logits = reference.evaluate(self.model, inputs)[self.model.output]
        parts = shares.split(shares.encode(logits, scale=self.model.scales()[self.model.output]))
        for server, store in enumerate(self.stores):
            for number, share in enumerate(shares.held(parts, server)):
                content = shares.to_bytes(share + (say == "corrupt" and (server, number) == (1, 0)))
                shares.half(store / shares.output_stem(batch), number).write_bytes(content)


def main(scratch: Path) -> None:
    driver = Driver(scratch)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            found = {"load": driver.load, "build": driver.build, "run": driver.run}[request["op"]](request)
            print(json.dumps({"ok": True, "seconds": 0.0, **(found or {})}), flush=True)
        except (OSError, PipelineError) as error:
            print(json.dumps({"ok": False, "error": str(error)}), flush=True)


if __name__ == "__main__":
    die_with_parent(os.getppid())
    main(Path(sys.argv[1]))
