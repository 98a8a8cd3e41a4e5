"""CrypTen for benchmarks/encrypted.py: crypten_speed.py FOLDER. Two processes; the first deals the random numbers."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crypten
import crypten.communicator
import crypten.mpc
import torch
from encrypted_timing import measure

from privacy_pipeline.encrypted.model.model_format import PrivateModel, load

PARTIES, CALLS = 2, 5


def forward(model: PrivateModel, weights: dict[str, Any], x: Any) -> Any:
    """Compute the network with channels first, as in PyTorch."""
    for layer in model.layers:
        if layer.op == "dense":
            x = x.matmul(weights[f"{layer.name}/kernel"]) + weights[f"{layer.name}/bias"]
        elif layer.op == "conv2d":
            stride = layer.config["strides"][0]
            if layer.config["padding"] == "same":  # 28 by a window of 5 and a stride of 2: one before, two after
                x = x.pad((1, 2, 1, 2))
            x = x.conv2d(weights[f"{layer.name}/kernel"], stride=stride) + weights[f"{layer.name}/bias"]
        elif layer.op == "max_pool":
            x = x.max_pool2d(layer.config["pool"][0])
        elif layer.op == "relu":
            x = x.relu()
        else:
            # Flattening goes by rows, columns, channels in the network.
            x = (x.permute(0, 2, 3, 1) if x.dim() == 4 else x).reshape(x.size(0), -1)
    return x


def main(folder: Path) -> None:
    model = load(folder / "model")

    def party() -> None:
        torch.set_num_threads(1)
        weights = {}
        for name, value in model.weights.items():
            given = torch.tensor(value)
            if given.dim() == 4:
                given = given.permute(3, 2, 0, 1).contiguous()
            elif given.dim() == 1 and f"{name.rpartition('/')[0]}/kernel" in model.weights:
                convolved = model.weights[f"{name.rpartition('/')[0]}/kernel"].ndim == 4
                given = given.reshape(1, -1, 1, 1) if convolved else given
            weights[name] = crypten.cryptensor(given, src=0)

        def make(batch: int) -> tuple[Callable[[Any], Any], dict[str, Any]]:
            def predict(rows: Any) -> Any:
                given = torch.tensor(rows)
                shared = crypten.cryptensor(given.permute(0, 3, 1, 2).contiguous() if given.dim() == 4 else given)
                return forward(model, weights, shared).get_plain_text().numpy()

            return predict, {}

        if crypten.communicator.get().get_rank() != 0:
            sys.stdout = io.StringIO()  # one party prints
        measure(folder, make, calls=CALLS)

    crypten.init()
    crypten.mpc.run_multiprocess(world_size=PARTIES)(party)()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
