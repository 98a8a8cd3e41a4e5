"""SPU's ABY3 for benchmarks/encrypted.py and encrypted_parties.py: spu_speed.py [processes] FOLDER.

Three threads with links in memory, as in SPU's own simulator. The simulator would compile and share the weights again
in every call; here this is done once, and the parties stay. With `processes` each party is a process, linked to the
others by SPU's sockets (brpc on this machine's loopback, no TLS); the client, which shares and joins, is this process.
"""

from __future__ import annotations

import multiprocessing
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import spu.api
from encrypted_timing import measure
from spu import libspu
from spu.utils import frontend
from spu.utils.simulation import PropagatingThread

from privacy_pipeline.encrypted.model.model_format import PrivateModel, load

PARTIES = 3
SECRET = libspu.Visibility.VIS_SECRET


def forward(model: PrivateModel) -> Callable[..., Any]:
    """Return the network as a function of rows and weights."""

    def evaluate(x: Any, weights: dict[str, Any]) -> Any:
        for layer in model.layers:
            if layer.op == "dense":
                x = x @ weights[f"{layer.name}/kernel"] + weights[f"{layer.name}/bias"]
            elif layer.op == "conv2d":
                x = jax.lax.conv_general_dilated(
                    x,
                    weights[f"{layer.name}/kernel"],
                    layer.config["strides"],
                    layer.config["padding"].upper(),
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )
                x = x + weights[f"{layer.name}/bias"]
            elif layer.op == "max_pool":
                window = (1, *layer.config["pool"], 1)
                x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, *layer.config["strides"], 1), "VALID")
            elif layer.op == "relu":
                x = jnp.maximum(x, 0)
            else:
                x = x.reshape(x.shape[0], -1)
        return x

    return evaluate


class Parties:
    """Three runtimes that stay, with one thread each in a call."""

    def __init__(self, config: Any) -> None:
        self.io = spu.api.Io(PARTIES, config)
        described = libspu.link.Desc()
        for rank in range(PARTIES):
            described.add_party(f"id_{rank}", f"thread_{rank}")
        self.runtimes = self.each(
            lambda rank: spu.api.Runtime(libspu.link.create_mem(described, rank), libspu.RuntimeConfig(config))
        )

    def each(self, function: Callable[[int], Any]) -> list[Any]:
        """Return the results of a function of the rank, computed for all ranks at the same time."""
        threads = [PropagatingThread(target=function, args=(rank,)) for rank in range(PARTIES)]
        for thread in threads:
            thread.start()
        return [thread.join() for thread in threads]

    def give(self, name: str, value: Any) -> None:
        """Share a value among the parties."""
        for runtime, share in zip(self.runtimes, self.io.make_shares(value, SECRET), strict=True):
            runtime.set_var(name, share)

    def run(self, executable: Any) -> Any:
        """Return the revealed first output."""

        def one(rank: int) -> Any:
            self.runtimes[rank].run(executable)
            return self.runtimes[rank].get_var(executable.output_names[0])

        return self.io.reconstruct(self.each(one))


class PartyProcesses:
    """Three processes with a runtime each, which end with this one."""

    def __init__(self, config: Any) -> None:
        self.io = spu.api.Io(PARTIES, config)
        with ExitStack() as stack:
            free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(PARTIES)]
            ports = [one.getsockname()[1] for one in free]
        started = multiprocessing.get_context("spawn")  # brpc has threads, which a fork would not copy
        self.pipes: list[Connection] = []
        for rank in range(PARTIES):
            near, far = started.Pipe()
            setting = config.SerializeToString()
            started.Process(target=party, args=(rank, ports, setting, far), daemon=True).start()
            self.pipes.append(near)

    def give(self, name: str, value: Any) -> None:
        """Share a value among the parties."""
        for pipe, share in zip(self.pipes, self.io.make_shares(value, SECRET), strict=True):
            pipe.send((name, share))

    def run(self, executable: Any) -> Any:
        """Return the revealed first output."""
        for pipe in self.pipes:
            pipe.send((None, executable.SerializeToString()))
        return self.io.reconstruct([pipe.recv() for pipe in self.pipes])


def party(rank: int, ports: list[int], setting: bytes, pipe: Connection) -> None:
    """Run one party: take shares, and run the client's orders until the client is gone."""
    described = libspu.link.Desc()
    for number, port in enumerate(ports):
        described.add_party(f"id_{number}", f"127.0.0.1:{port}")
    config = libspu.RuntimeConfig()
    config.ParseFromString(setting)
    runtime = spu.api.Runtime(libspu.link.create_brpc(described, rank), config)
    while True:
        try:
            name, content = pipe.recv()
        except EOFError:
            return
        if name is not None:
            runtime.set_var(name, content)
            continue
        executable = libspu.Executable()
        executable.ParseFromString(content)
        runtime.run(executable)
        pipe.send(runtime.get_var(executable.output_names[0]))


def main(folder: Path, kind: Callable[[Any], Any] = Parties) -> None:
    model = load(folder / "model")
    weights = {name: value.astype(np.float32) for name, value in model.weights.items()}
    config = libspu.RuntimeConfig(protocol=libspu.ProtocolKind.ABY3, field=libspu.FieldType.FM64, fxp_fraction_bits=16)

    def make(batch: int) -> tuple[Callable[[Any], Any], dict[str, Any]]:
        parties = kind(config)
        x = np.zeros((batch, *model.inputs[0].shape), np.float32)
        flat, _ = jax.tree_util.tree_flatten(((x, weights), {}))
        names = [f"in{number}" for number in range(len(flat))]
        executable, _ = frontend.compile(
            frontend.Kind.JAX,
            forward(model),
            (x, weights),
            {},
            names,
            [SECRET] * len(flat),
            lambda outputs: [f"out{number}" for number in range(len(outputs))],
        )
        for name, value in zip(names[1:], flat[1:], strict=True):
            parties.give(name, value)

        def predict(rows: Any) -> Any:
            parties.give(names[0], rows.astype(np.float32))
            return parties.run(executable)

        return predict, {}

    measure(folder, make)


if __name__ == "__main__":
    *given, job = sys.argv[1:]
    main(Path(job), PartyProcesses if given == ["processes"] else Parties)
