"""The clipped sum of a batch's per-example gradients: what DP-SGD releases, before noise.

Each example's gradient, over all variables of a group, is scaled to at most the group's norm, and the scaled gradients
are added up (Abadi et al. 2016, arXiv 1607.00133, algorithm 1). Groups are one for all variables (flat) or one for
each layer (McMahan et al. 2018, arXiv 1710.06963, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from privacy_pipeline.dp.clipping.fallback import NeedsWholeModelError, chunk_size, vectorized
from privacy_pipeline.dp.clipping.intercept import Recorder, Targets, find_targets, intercepted
from privacy_pipeline.dp.clipping.parts import Part, kept, row_norms
from privacy_pipeline.dp.masks import masks_of_row
from privacy_pipeline.errors import BadInputError

# Losses of a batch, [B], from (x, y, training).
Losses = Callable[[Any, Any, bool], Any]

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
    """Groups whose sensitivity is `norm`: one, or one for each layer, each bounded by norm / sqrt(layers).

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


def _weights(squared: Sequence[Any], groups: Groups, present: Any) -> list[Any]:
    """Factor of each example in each group, [B] each; 0 in all groups where any norm is not finite, or for padding."""
    totals = [
        tf.add_n([value for value, member in zip(squared, groups.members, strict=True) if member == group])
        for group in range(len(groups.norms))
    ]
    finite = tf.reduce_all(tf.math.is_finite(tf.stack(totals)), axis=0)
    if present is not None:
        finite = tf.logical_and(finite, present)
    factors = []
    for total, norm in zip(totals, groups.norms, strict=True):
        safe = tf.where(finite, total, tf.ones_like(total))
        factor = tf.minimum(1.0, norm * tf.math.rsqrt(tf.maximum(safe, norm**2))) * (1 - _MARGIN)
        factors.append(tf.where(finite, factor, tf.zeros_like(factor)))
    return factors


class BookKeeping:
    """Clipped sums from one forward and one backward pass, by the rules of the layers.

    Args:
        model: built Keras model.
        losses: gives the loss of each example.
        variables: what is trained.
        groups: clipping groups.
        memory_cap: bytes for per-example gradients of layers without a rule.

    Raises:
        NeedsWholeModelError: see `find_targets`.
    """

    def __init__(
        self, *, model: Any, losses: Losses, variables: Sequence[Any], groups: Groups, memory_cap: int
    ) -> None:
        self._losses = losses
        self._variables = list(variables)
        self._groups = groups
        self.targets: Targets = find_targets(model, variables, memory_cap=memory_cap)

    def parts(self, x: Any, y: Any, *, training: bool) -> list[Part | None]:
        """The part of each variable; None where the variable was not used."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            recorder = Recorder(tape)
            with intercepted(self.targets, recorder):
                losses = self._losses(x, y, training)
            total = tf.reduce_sum(losses)
        return recorder.parts(total, self._variables)

    def squared_norms(self, x: Any, y: Any, *, training: bool) -> list[Any]:
        """Squared norm of each example's gradient of each variable, [B] each."""
        return self._norms(self.parts(x, y, training=training), x)

    def _norms(self, parts: Sequence[Part | None], x: Any) -> list[Any]:
        some = next((part for part in parts if part is not None), None)
        if some is None:
            raise NeedsWholeModelError("no layer of the model was called")
        rows = tf.shape(tf.nest.flatten(x)[0])[:1]
        return [
            tf.zeros(rows, variable.dtype) if part is None else part.squared_norm()
            for part, variable in zip(parts, self._variables, strict=True)
        ]

    def clipped_sum(self, x: Any, y: Any, *, training: bool, present: Any = None) -> list[Any]:
        """Sum over the batch of clipped per-example gradients, one tensor for each variable.

        Args:
            x: nest of inputs, [B, ...].
            y: nest of labels, [B, ...].
            training: whether dropout and the like are on.
            present: bool [B], False for rows of padding; None if there is none.
        """
        parts = self.parts(x, y, training=training)
        factors = _weights(self._norms(parts, x), self._groups, present)
        return [
            tf.zeros(variable.shape, variable.dtype)
            if part is None
            else tf.ensure_shape(part.weighted_sum(factors[member]), variable.shape)
            for part, variable, member in zip(parts, self._variables, self._groups.members, strict=True)
        ]


class Vectorised:
    """Clipped sums from per-example gradients of the whole model, some examples at a time.

    Args:
        losses: gives the loss of each example.
        variables: what is trained.
        groups: clipping groups.
        memory_cap: bytes for per-example gradients.
    """

    def __init__(self, *, losses: Losses, variables: Sequence[Any], groups: Groups, memory_cap: int) -> None:
        self._losses = losses
        self._variables = list(variables)
        self._groups = groups
        self._size = chunk_size(variables, memory_cap)

    def _gradients(self, x: Any, y: Any, training: bool, first: Any = 0) -> list[Any]:
        def one(row: Any) -> list[Any]:
            own_x, own_y = tf.nest.map_structure(lambda value: value[None], row[:2])
            with masks_of_row(row[2]), tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(self._variables)
                loss = tf.reduce_sum(self._losses(own_x, own_y, training))
            found = tape.gradient(loss, self._variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return [tf.convert_to_tensor(gradient) for gradient in found]

        rows = tf.range(tf.shape(tf.nest.flatten(x)[0])[0]) + first
        return vectorized(one, (x, y, rows), self._variables)

    def squared_norms(self, x: Any, y: Any, *, training: bool) -> list[Any]:
        """Squared norm of each example's gradient of each variable, [B] each; the batch at once."""
        return [row_norms(gradient) for gradient in self._gradients(x, y, training)]

    def clipped_sum(self, x: Any, y: Any, *, training: bool, present: Any = None) -> list[Any]:
        """Sum over the batch of clipped per-example gradients; see `BookKeeping.clipped_sum`."""
        rows = tf.shape(tf.nest.flatten(x)[0])[0]

        def body(start: Any, sums: list[Any]) -> tuple[Any, list[Any]]:
            own = tf.nest.map_structure(lambda value: value[start : start + self._size], (x, y))
            gradients = self._gradients(own[0], own[1], training, start)
            own_present = None if present is None else present[start : start + self._size]
            factors = _weights([row_norms(gradient) for gradient in gradients], self._groups, own_present)
            added = []
            for gradient, member, held in zip(gradients, self._groups.members, sums, strict=True):
                weights = factors[member]
                added.append(held + tf.tensordot(weights, kept(gradient, weights), 1))
            return start + self._size, added

        zeros = [tf.zeros(variable.shape, variable.dtype) for variable in self._variables]
        _, sums = tf.while_loop(lambda start, _: start < rows, body, (tf.constant(0), zeros))
        return list(sums)
