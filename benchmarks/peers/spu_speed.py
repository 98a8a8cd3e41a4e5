"""SPU's ABY3 for benchmarks/encrypted.py: spu_speed.py FOLDER.

Three threads with links in memory, as in SPU's own simulator, which however would compile and share the weights again
in every call; here that is done once, and the parties stay.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
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

from privacy_pipeline.encrypted.model_format import PrivateModel, load

PARTIES = 3
SECRET = libspu.Visibility.VIS_SECRET


def forward(model: PrivateModel) -> Callable[..., Any]:
    """The network as a function of rows and weights."""

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
        """What a function of the rank gives, all at the same time."""
        threads = [PropagatingThread(target=function, args=(rank,)) for rank in range(PARTIES)]
        for thread in threads:
            thread.start()
        return [thread.join() for thread in threads]

    def give(self, name: str, value: Any) -> None:
        """Shares a value among the parties."""
        for runtime, share in zip(self.runtimes, self.io.make_shares(value, SECRET), strict=True):
            runtime.set_var(name, share)

    def run(self, executable: Any) -> Any:
        """The revealed first output."""

        def one(rank: int) -> Any:
            self.runtimes[rank].run(executable)
            return self.runtimes[rank].get_var(executable.output_names[0])

        return self.io.reconstruct(self.each(one))


def main(folder: Path) -> None:
    model = load(folder / "model")
    weights = {name: value.astype(np.float32) for name, value in model.weights.items()}
    config = libspu.RuntimeConfig(protocol=libspu.ProtocolKind.ABY3, field=libspu.FieldType.FM64, fxp_fraction_bits=16)

    def make(batch: int) -> tuple[Callable[[Any], Any], dict[str, Any]]:
        parties = Parties(config)
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
    main(Path(sys.argv[1]))
