"""The clipped sum of a batch's per-example gradients: what DP-SGD releases, before noise.

Each example's gradient, over all variables of a group, is scaled to at most the group's norm, and the scaled gradients
are added up (Abadi et al. 2016, arXiv 1607.00133, algorithm 1). Groups are one for all variables (flat) or one for
each layer (McMahan et al. 2018, arXiv 1710.06963, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from privacy_pipeline.dp.clipping.fallback import NeedsWholeModelError, chunk_size, mapped, vectorized
from privacy_pipeline.dp.clipping.groups import Groups, factors_of
from privacy_pipeline.dp.clipping.intercept import Recorder, Targets, find_targets, intercepted
from privacy_pipeline.dp.clipping.parts import Part, squared_norms_of, tensors_of_part
from privacy_pipeline.dp.clipping.row_norms import kept, squared
from privacy_pipeline.dp.clipping.units import in_units
from privacy_pipeline.dp.noise.masks import masks_of_row
from privacy_pipeline.dp.rowwise.proof import note_targets
from privacy_pipeline.dp.rowwise.verdict import NOT_EXAMINED

# Losses of a batch, [B], from (x, y, training).
Losses = Callable[[Any, Any, bool], Any]


class BookKeeping:
    """Clipped sums from one forward and one backward pass, by the rules of the layers.

    Args:
        model: built Keras model.
        losses: gives the loss of each example.
        variables: what is trained.
        groups: clipping groups.
        memory_cap: bytes for per-example gradients of layers without a rule.
        rows: consecutive examples of a unit, whose gradients are added up before they are clipped.
        isolated: `id` of each layer that runs on one example at a time.

    Attributes:
        verdict: what is proven of the model's rows; see `choice.choose_clipper`.

    Raises:
        NeedsWholeModelError: see `find_targets`.
    """

    def __init__(
        self,
        *,
        model: Any,
        losses: Losses,
        variables: Sequence[Any],
        groups: Groups,
        memory_cap: int,
        rows: int = 1,
        isolated: frozenset[int] = frozenset(),
    ) -> None:
        self._losses = losses
        self._variables = list(variables)
        self._groups = groups
        self.rows = rows
        self.verdict = NOT_EXAMINED
        self.targets: Targets = find_targets(model, variables, memory_cap=memory_cap, rows=rows, isolated=isolated)

    @property
    def groups(self) -> Groups:
        """Which variables are clipped together."""
        return self._groups

    def parts(self, x: Any, y: Any, *, training: bool, present: Any = None) -> list[Part | None]:
        """Return the part of each variable; None where the variable was not used."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            recorder = Recorder(tape, any_size=tf.nest.flatten(x)[0].shape[:1] == [None])
            with intercepted(self.targets, recorder):
                losses = self._losses(x, y, training)
            total = tf.reduce_sum(_counted(losses, present if self.rows > 1 else None))
        parts = recorder.parts(total, self._variables, rows=self.rows)
        note_targets([losses, *(tensor for part in parts if part is not None for tensor in tensors_of_part(part))])
        return parts

    def squared_norms(self, x: Any, y: Any, *, training: bool, present: Any = None) -> list[Any]:
        """Return the squared norm of each unit's gradient of each variable, float64 [B] each."""
        return self._norms(self.parts(x, y, training=training, present=present), x)

    def _norms(self, parts: Sequence[Part | None], x: Any) -> list[Any]:
        some = next((part for part in parts if part is not None), None)
        if some is None:
            raise NeedsWholeModelError("no layer of the model was called")
        units = tf.shape(tf.nest.flatten(x)[0])[:1] // self.rows
        return squared_norms_of(parts, units)

    def clipped(
        self, x: Any, y: Any, *, training: bool, present: Any = None, norm: Any = None, scale: float = 1.0
    ) -> tuple[list[Any], Any]:
        """Return the sum over the batch of the units' clipped gradients, and a count of those that stayed as they were.

        Args:
            x: nest of inputs, [rows, ...]; rows of one unit follow one another.
            y: nest of labels, [rows, ...].
            training: whether dropout and the like are on.
            present: bool [rows], False for rows of padding; None if there is none.
            norm: scalar that stands in for the norm of the one group.
            scale: what the sum is multiplied by.

        Returns:
            One tensor for each variable, and a scalar: the sum of `edge.within` over the units.
        """
        parts = self.parts(x, y, training=training, present=present)
        return self._clipped(parts, self._norms(parts, x), present, norm, scale)

    def _clipped(
        self, parts: Sequence[Part | None], norms: Sequence[Any], present: Any, norm: Any = None, scale: float = 1.0
    ) -> tuple[list[Any], Any]:
        there, dtype = _units_present(present, self.rows), self._variables[0].dtype
        factors, count = factors_of(norms, self._groups, there, norm, scale, dtype)
        sums = [
            tf.zeros(variable.shape, variable.dtype)
            if part is None
            else tf.ensure_shape(part.weighted_sum(factors[member]), variable.shape)
            for part, variable, member in zip(parts, self._variables, self._groups.members, strict=True)
        ]
        return sums, count

    def norms_and_sums(self, x: Any, y: Any, *, training: bool, present: Any = None) -> tuple[list[Any], list[Any]]:
        """Return the results of `squared_norms` and `clipped_sum`, from one forward and one backward pass."""
        parts = self.parts(x, y, training=training, present=present)
        norms = self._norms(parts, x)
        return norms, self._clipped(parts, norms, present)[0]

    def clipped_sum(self, x: Any, y: Any, *, training: bool, present: Any = None) -> list[Any]:
        """Return the sums of `clipped`."""
        return self.clipped(x, y, training=training, present=present)[0]


def _counted(losses: Any, present: Any) -> Any:
    """Return the losses, with 0, and a gradient of 0, for rows of padding."""
    return losses if present is None else tf.where(present, losses, tf.zeros_like(losses))


def _units_present(present: Any, rows: int) -> Any:
    return present if present is None or rows == 1 else tf.reduce_any(in_units(present, rows), axis=1)


class Vectorised:
    """Clipped sums from gradients of the whole model for each unit, some units at a time.

    Args:
        losses: gives the loss of each example.
        variables: what is trained.
        groups: clipping groups.
        memory_cap: bytes for the units' gradients.
        rows: consecutive examples of a unit.
        one_by_one: a loop over the units, for models that TensorFlow vectorises wrongly (see `program.choose_clipper`).
    """

    def __init__(
        self,
        *,
        losses: Losses,
        variables: Sequence[Any],
        groups: Groups,
        memory_cap: int,
        rows: int = 1,
        one_by_one: bool = False,
    ) -> None:
        self._losses = losses
        self._variables = list(variables)
        self._groups = groups
        self._size = chunk_size(variables, memory_cap)
        self._map = mapped if one_by_one else vectorized
        self.rows = rows
        self.verdict = NOT_EXAMINED

    @property
    def groups(self) -> Groups:
        """Which variables are clipped together."""
        return self._groups

    def _gradients(self, units: Any, *, training: bool, first: Any = 0) -> list[Any]:
        """Return gradients of units; x, y and present are given as [units, rows, ...]."""

        def one(unit: Any) -> list[Any]:
            own_x, own_y, own_present, number = unit
            with masks_of_row(number), tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(self._variables)
                losses = self._losses(own_x, own_y, training)
                loss = tf.reduce_sum(_counted(losses, own_present if self.rows > 1 else None))
            found = tape.gradient(loss, self._variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return [tf.convert_to_tensor(gradient) for gradient in found]

        numbers = tf.range(tf.shape(units[2])[0]) + first
        made = self._map(one, (*units, numbers), self._variables)
        note_targets(made)
        return made

    def _in_units(self, x: Any, y: Any, present: Any) -> Any:
        if present is None:
            present = tf.ones(tf.shape(tf.nest.flatten(x)[0])[:1], tf.bool)
        return in_units((x, y, present), self.rows)

    def squared_norms(self, x: Any, y: Any, *, training: bool, present: Any = None) -> list[Any]:
        """Return the squared norm of each unit's gradient of each variable, float64 [B] each; the batch at once."""
        return [squared(gradient) for gradient in self._gradients(self._in_units(x, y, present), training=training)]

    def clipped(
        self, x: Any, y: Any, *, training: bool, present: Any = None, norm: Any = None, scale: float = 1.0
    ) -> tuple[list[Any], Any]:
        """Return the sum over the batch of the units' clipped gradients; see `BookKeeping.clipped`."""
        units = self._in_units(x, y, present)
        count = tf.shape(units[2])[0]

        def body(start: Any, sums: list[Any], whole: Any) -> tuple[Any, list[Any], Any]:
            own = tf.nest.map_structure(lambda value: value[start : start + self._size], units)
            gradients = self._gradients(own, training=training, first=start)
            there, dtype = tf.reduce_any(own[2], axis=1), self._variables[0].dtype
            squares = [squared(gradient) for gradient in gradients]
            factors, unclipped = factors_of(squares, self._groups, there, norm, scale, dtype)
            added = []
            for gradient, member, held in zip(gradients, self._groups.members, sums, strict=True):
                weights = factors[member]
                added.append(held + tf.tensordot(weights, kept(gradient, weights), 1))
            return start + self._size, added, whole + unclipped

        zeros = [tf.zeros(variable.shape, variable.dtype) for variable in self._variables]
        _, sums, whole = tf.while_loop(lambda start, *_: start < count, body, (tf.constant(0), zeros, tf.constant(0.0)))
        return list(sums), whole

    def clipped_sum(self, x: Any, y: Any, *, training: bool, present: Any = None) -> list[Any]:
        """Return the sums of `clipped`."""
        return self.clipped(x, y, training=training, present=present)[0]
