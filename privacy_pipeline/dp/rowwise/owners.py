"""Which layer an op belongs to, and the message about one that mixes rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from privacy_pipeline.dp.rowwise.values import Offence

LOSS_SCOPE = "loss_of_each_example"
_GRADIENT = "gradient_tape"


@dataclass(frozen=True)
class Owner:
    """A layer, or the loss.

    Attributes:
        name: for messages.
        layer: the layer; None for the loss.
    """

    name: str
    layer: Any


LOSS = Owner("the loss", None)


def is_atomic(layer: Any) -> bool:
    """Return whether a layer calls others in its own loop, or on a batch of another size: it is one part with them."""
    import tensorflow as tf

    return isinstance(layer, (tf.keras.layers.RNN, tf.keras.layers.TimeDistributed))


class Owners:
    """Finds the innermost layer that an op's name leads to.

    Args:
        model: the Keras model.
    """

    def __init__(self, model: Any) -> None:
        self._layers = {layer.name: layer for layer in model._flatten_layers(include_self=False)}

    def of(self, op: str) -> Owner | None:
        """Return the owner of an op of the outermost graph; None where it is the model itself."""
        parts = [part for part in op.split("/") if part != _GRADIENT]
        if any(part == LOSS_SCOPE or re.fullmatch(rf"{LOSS_SCOPE}_\d+", part) for part in parts):
            return LOSS
        found = [layer for part in parts[:-1] if (layer := self._layer(part)) is not None]
        if not found:
            return None
        layer = next((one for one in found if is_atomic(one)), found[-1])
        return Owner(f"layer '{layer.name}' ({type(layer).__name__})", layer)

    def _layer(self, part: str) -> Any:
        """Return a layer by its scope; a second call of a layer has a number at its end."""
        return self._layers.get(part) or self._layers.get(re.sub(r"_\d+$", "", part))


_INSTEAD = (
    (("FusedBatchNorm",), "use GroupNormalization or LayerNormalization, which take each example's own statistics"),
    (("Softmax", "LogSoftmax"), "normalise along the last axis (axis=-1)"),
    (("TopKV2", "TopK", "ReverseV2", "Roll", "Cumsum"), "work along an axis of each example (axis=-1)"),
    (
        ("MatMul", "BatchMatMulV2", "Einsum"),
        "keep the batch axis first in both operands",
    ),
    (("Conv2D", "Conv3D", "MaxPool", "AvgPool"), "keep the batch as the first axis"),
)
_REDUCE = (
    "reduce over the axes of each example alone (axis=-1, or axes=[1, ...]); for a batch norm use GroupNormalization, "
    "for centring LayerNormalization"
)


def refusal(model: Any, offence: Offence) -> tuple[str, str]:
    """Return the message and fix for a model that mixes rows."""
    owner = Owners(model).of(offence.op)
    where = f"model '{model.name}'" if owner is None else owner.name
    instead = next((fix for types, fix in _INSTEAD if offence.type.startswith(types)), _REDUCE)
    message = (
        f"{where}: op '{offence.op}' ({offence.type}) mixes the examples of a batch: {offence.reason}; an example's "
        "loss would depend on other examples of its batch"
    )
    if owner is LOSS:
        instead = "give each example a loss of its own, with weights that are constants"
    return message, instead
