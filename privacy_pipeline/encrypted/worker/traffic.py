"""What crosses between the parties in one call, counted on the graph: bytes, and rounds one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes of all tensors that go from one party to another, and the longest chain of such steps."""

    sent_bytes: int
    rounds: int


def traffic(function: Any) -> Traffic:
    """Return the traffic of one call of a concrete function whose parties have devices of their own.

    A tensor that several operations of a party read is sent to it once. Operations without a device are nobody's.

    Args:
        function: what `PrivatePredictor.graph` gives.
    """
    rounds: dict[str, int] = {}
    sent: dict[tuple[str, str], int] = {}
    for operation in function.graph.get_operations():  # in an order in which inputs come first
        depth = 0
        for tensor in operation.inputs:
            before = rounds.get(tensor.op.name, 0)
            if _crosses(tensor, operation):
                before += 1
                sent[tensor.name, operation.device] = _size(tensor)
            depth = max(depth, before)
        rounds[operation.name] = depth
    return Traffic(sent_bytes=sum(sent.values()), rounds=max(rounds.values(), default=0))


def _crosses(tensor: Any, operation: Any) -> bool:
    source, target = tensor.op.device, operation.device
    return bool(source and target and source != target and tensor.dtype != tf.resource)


def _size(tensor: Any) -> int:
    return int(tensor.shape.num_elements() * tensor.dtype.size)
