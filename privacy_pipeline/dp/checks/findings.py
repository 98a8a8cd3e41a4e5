"""What is stated of a model that mixes rows, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

_LAYERS = tf.keras.layers


@dataclass(frozen=True)
class Finding:
    """A model that mixes rows.

    Attributes:
        reason: model and, where it can be determined, layer.
        fix: what to do.
    """

    reason: str
    fix: str


LOSS = "the loss of an example changes with the other examples of its batch"
FORWARD = "what a layer gives for an example changes with the other examples of its batch"
BACKWARD = "the gradient of an example changes with the other examples of its batch"


def instead_of(layer: Any) -> str:
    """Return what to do about a layer that mixes rows; about losses and code between the layers, where it is None."""
    if isinstance(layer, _LAYERS.BatchNormalization):
        return "use GroupNormalization or LayerNormalization"
    if layer is None:
        return (
            "look for a layer or loss that reduces over the batch axis (axis 0); weigh classes by public constants, "
            "not by their counts in the batch"
        )
    return (
        f"make '{layer.name}' work on each example alone (reduce over axes 1 and up, as clip_by_norm(x, c, axes=[1])"
        "), or use a layer that does: GroupNormalization for a batch norm, LayerNormalization for centring"
    )
