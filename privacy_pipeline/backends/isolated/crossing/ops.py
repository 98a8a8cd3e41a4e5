"""Which ops of TensorFlow a graph may have that crosses from a build: those of `computing_ops`.

`replay` gives the ops on weights and tables their meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from privacy_pipeline.computing_ops import ALLOWED, BRANCHES, CALLS, LOOPS, TABLE_OPS, WEIGHT_OPS
from privacy_pipeline.errors import BadInputError

__all__ = ["ALLOWED", "BRANCHES", "CALLS", "LOOPS", "TABLE_OPS", "WEIGHT_OPS", "printed", "require_allowed"]
_GRADIENT = "_gradient_op_type"


def require_allowed(nodes: Iterable[Any], *, what: str) -> None:
    """Refuse ops that do more than compute.

    Args:
        nodes: `NodeDef` of a graph and of all its functions.
        what: the part of the model that they are of, for messages.

    Raises:
        BadInputError: names the ops.
    """
    found = sorted({printed(node.op) for node in nodes if node.op not in ALLOWED})
    if found:
        raise BadInputError(
            f"model: {what} has {', '.join(found)}, which a graph may not have that crosses to where the data is: ops "
            "that only compute may",
            fix="drop files, sockets, Python, printing and assertions from it; a table is filled from constants",
        )
    if any(_GRADIENT in node.attr for node in nodes):
        raise BadInputError(
            f"model: {what} has a gradient of its own (tf.custom_gradient), whose Python would run beside the data",
            fix="use ops with TensorFlow's gradients; tf.nn.silu is tf.keras.layers.Activation('swish')",
        )


def printed(name: str) -> str:
    """Return a name of an op that somebody else gave, short and printable."""
    return "".join(one for one in name[:60] if one.isalnum() or one == "_")
