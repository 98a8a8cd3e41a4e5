"""Clipping groups: which variables are clipped together, to what, and the factors that bound each unit's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from privacy_pipeline.dp.clipping.edge import within
from privacy_pipeline.errors import BadInputError

# Norms and factors are rounded; this keeps what an example adds from exceeding its bound by a rounding.
_MARGIN = 1e-6


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Which variables are clipped together, and to what.

    Attributes:
        members: group of each variable, in the order of the variables.
        norms: bound of each group's gradient, L2.
    """

    members: tuple[int, ...]
    norms: tuple[float, ...]

    @property
    def sensitivity(self) -> float:
        """L2 bound of one example's whole contribution."""
        return float(sum(norm**2 for norm in self.norms) ** 0.5)


def make_groups(model: Any, variables: Sequence[Any], *, norm: float, per_layer: bool) -> Groups:
    """Return groups whose sensitivity is `norm`: one, or one for each layer, each bounded by norm / sqrt(layers).

    Args:
        model: the model.
        variables: what is trained.
        norm: bound of one example's whole gradient, L2.
        per_layer: one group for each layer that owns variables.

    Raises:
        BadInputError: there is nothing to train.
    """
    if not variables:
        raise BadInputError("the model has nothing to train", fix="set trainable on some layer")
    if not per_layer:
        return Groups(members=(0,) * len(variables), norms=(norm,))
    # Outer layers come first, so that the innermost owner of a variable is the last one to claim it.
    owner: dict[Any, int] = {}
    for number, layer in enumerate(model._flatten_layers()):
        for weight in layer.trainable_weights:
            owner[weight.ref()] = number
    numbers = [owner[variable.ref()] for variable in variables]
    order = sorted(set(numbers))
    return Groups(
        members=tuple(order.index(number) for number in numbers), norms=(norm / len(order) ** 0.5,) * len(order)
    )


def factors_of(
    squares: Sequence[Any], groups: Groups, present: Any, norm: Any, scale: float, dtype: Any
) -> tuple[list[Any], Any]:
    """Factor of each unit in each group, `dtype` [B] each; 0 in all groups where a norm is not finite, or for padding.

    Before `scale`, the factor bounds the gradient by the group's norm. Squared norms are float64, so that none of a
    finite float32 gradient overflows; a factor below 1e-38, of a gradient more than 1e38 times what it may add, is 0.

    Also the centred count of units that stay as they are: see `edge.within` for the (first) bound, and 0 for those that
    count as nothing.
    """
    norms = groups.norms if norm is None else [tf.cast(norm, tf.float64)]
    totals = [
        tf.add_n([value for value, member in zip(squares, groups.members, strict=True) if member == group])
        for group in range(len(groups.norms))
    ]
    finite = tf.reduce_all(tf.math.is_finite(tf.stack(totals)), axis=0)
    if present is not None:
        finite = tf.logical_and(finite, present)
    factors = []
    for total, bound in zip(totals, norms, strict=True):
        safe = tf.where(finite, total, tf.ones_like(total))
        factor = bound * tf.math.rsqrt(tf.maximum(safe, bound**2)) * ((1 - _MARGIN) * scale)
        factors.append(tf.cast(tf.where(finite, factor, tf.zeros_like(factor)), dtype))
    halves = within(tf.sqrt(tf.where(finite, totals[0], tf.zeros_like(totals[0]))), norms[0])
    return factors, tf.reduce_sum(tf.where(finite, halves, tf.zeros_like(halves)))
