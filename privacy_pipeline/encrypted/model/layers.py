"""Inputs and operations of a private network, as values. Standard library alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]

LARGEST_INPUT = 2.0**7  # absolute value of a float input of which nothing else is known
ONE, CUT = 2.0**16, 16  # scale of a part, and bits cut off a product, where `fixed_point.scaled` chose no others


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input of the network: a float vector or tensor, or the integer that an embedding looks up.

    Attributes:
        name: of the transformed feature.
        shape: of one row.
        vocabulary: number of values of an integer input, which the client turns into a one-hot vector; 0 for a float.
        lower, upper: public range of a float input, which the client keeps to: one number for all elements, or one for
            each place on the last axis.
        scale: how many units of the ring make 1.
    """

    name: str
    shape: Shape
    vocabulary: int = 0
    lower: tuple[float, ...] = (-LARGEST_INPUT,)
    upper: tuple[float, ...] = (LARGEST_INPUT,)
    scale: float = ONE


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One operation on the outputs of earlier ones.

    Attributes:
        name: of the Keras layer, with a suffix where one layer becomes several operations.
        op: one of OPS.
        inputs: names of inputs or earlier layers.
        config: public integers of the operation: strides, pool sizes, target shape.
        weights: shapes of its weights by role; the values are in the npz as "layer/role".
        scale: how many units of the ring make 1 of what it gives.
        cut: bits that are cut off its products; 0 where a sum is not cut.
        factor: what `average_pool` divides by the number of elements and multiplies their sum by, or `rescale`
            multiplies by, before bits are cut off.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Shape] = field(default_factory=dict)
    scale: float = ONE
    cut: int = CUT
    factor: int = 1 << CUT
