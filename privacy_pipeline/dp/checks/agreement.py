"""Whether a clipper's norms and clipped sums are those of gradients that a tape computes one unit at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from privacy_pipeline.dp.checks.made_up import Kind, MadeUp, computes_in_half, varied
from privacy_pipeline.dp.clipping.gradients import BookKeeping, Losses, Vectorised
from privacy_pipeline.dp.graphs.tracing import Traced, random_ops
from privacy_pipeline.dp.noise.masks import keyed_masks, masks_of_row

_UNITS = 3
# Relative, and as a share of the largest variable's value: float32 over two different orders of summation.
_ROUNDING = (1e-3, 1e-4)
_HALF_ROUNDING = (5e-2, 2e-2)  # the tape's own gradients are rounded to half precision
_NOTHING = 1e-12  # norms below this are 0 but for rounding
_SEED = (3, 4)
_KINDS = (Kind(label=None), Kind(scale=30.0, signed=True))


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A clipper to be checked, and the model that it clips.

    Attributes:
        keeping: the clipper.
        variables: what is trained.
        model: built Keras model.
        losses: gives the loss of each example.
        x: nest of `tf.TensorSpec` of the inputs, [None, ...].
        y: nest of `tf.TensorSpec` of the labels.
        trained: what was traced of the clipper's `norms_and_sums` in training mode, a function of (x, y, present,
            seed); None to trace it.
    """

    keeping: BookKeeping | Vectorised
    variables: Sequence[Any]
    model: Any
    losses: Losses
    x: Any
    y: Any
    trained: Callable[..., Any] | None = None

    def wrong(self) -> str | None:
        """Return the name of a variable whose norm or clipped sum comes out wrong for some unit; None if all are right.

        The comparison is made in training mode. A model that is random there draws other masks for a unit alone than
        in a batch: it is compared in inference mode, unless it draws there too, and in training mode on batches of one
        unit, with the same masks.

        Raises:
            tf.errors.InvalidArgumentError: vectorised gradients fail when they run.
        """
        with varied(self.variables):
            training = self._expected(training=True)
            drawn = random_ops(training.concrete.graph)
            if not drawn:
                return self._compared(training, training=True, units=_UNITS)
            served, wrong = self._expected(training=False), None
            if not random_ops(served.concrete.graph):
                wrong = self._compared(served, training=False, units=_UNITS)
            repeatable = all(op.startswith("Stateless") for op in drawn) and not self._is_slow()
            if wrong is not None or not repeatable:
                return wrong
            return self._compared(training, training=True, units=1)

    def _is_slow(self) -> bool:
        """Return whether layers run twice, where masks would differ: `program` refuses those that are random."""
        return isinstance(self.keeping, BookKeeping) and bool(self.keeping.targets.slow)

    def _expected(self, *, training: bool) -> Traced:
        """Return the gradient of one unit by each variable, as a function of (x, y)."""
        vectorised = isinstance(self.keeping, Vectorised)

        def gradients(a: Any, b: Any) -> Any:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(self.variables)
                total = tf.reduce_sum(self.losses(a, b, training))
            found = tape.gradient(total, self.variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return [tf.convert_to_tensor(gradient) for gradient in found]

        def one(a: Any, b: Any) -> Any:
            with keyed_masks(self.model, tf.constant(_SEED, tf.int64)):
                if not vectorised:
                    return gradients(a, b)
                with masks_of_row(tf.constant(0)):
                    return gradients(a, b)

        return Traced(one, self.x, self.y)

    def _compared(self, expected: Traced, *, training: bool, units: int) -> str | None:
        """Compare one mode, on values of several sizes."""
        run = self._run(training)
        for x, y in self._batches(units):
            squared, sums = run(x, y)
            wrong = self._differs(expected, x, y, [np.sqrt(norm.numpy()) for norm in squared], sums, units)
            if wrong is not None:
                return wrong
        return None

    def _run(self, training: bool) -> Callable[[Any, Any], Any]:
        """Return norms and sums of the clipper, as a function of (x, y)."""
        seed = tf.constant(_SEED, tf.int64)
        trained = self.trained
        if training and trained is not None:
            return lambda a, b: trained(a, b, tf.ones(tf.shape(tf.nest.flatten(b)[0])[:1], tf.bool), seed)

        def clipped(a: Any, b: Any) -> Any:
            if isinstance(self.keeping, BookKeeping):
                with keyed_masks(self.model, seed):
                    return self.keeping.norms_and_sums(a, b, training=training)
            with keyed_masks(self.model, seed):  # the same masks twice
                norms = self.keeping.squared_norms(a, b, training=training)
            with keyed_masks(self.model, seed):
                return norms, self.keeping.clipped_sum(a, b, training=training)

        return Traced(clipped, self.x, self.y)

    def _batches(self, units: int) -> Iterator[tuple[Any, Any]]:
        outputs = [value.shape for value in tf.nest.flatten(getattr(self.model, "outputs", None) or [])]
        made = MadeUp(model=self.model, x=self.x, y=self.y, outputs=outputs)
        for kind in _KINDS[:1] if computes_in_half(self.model) else _KINDS:
            yield made.batch([made.row(number, kind) for number in range(units * self.keeping.rows)])

    def _differs(
        self, expected: Traced, x: Any, y: Any, norms: Sequence[NDArray[Any]], sums: Sequence[Any], units: int
    ) -> str | None:
        """Return the name of the first variable that differs."""
        rows, rounding = self.keeping.rows, _HALF_ROUNDING if computes_in_half(self.model) else _ROUNDING
        right_sums = [np.zeros(variable.shape, np.float64) for variable in self.variables]
        for unit in range(units):
            cut = slice(unit * rows, (unit + 1) * rows)
            own = tf.nest.map_structure(lambda v, cut=cut: v[cut], (x, y))
            gradients = [gradient.numpy().astype(np.float64) for gradient in expected(*own)]
            right = [float(np.linalg.norm(gradient)) for gradient in gradients]
            room = rounding[1] * max([norm for norm in right if np.isfinite(norm)], default=0.0) + _NOTHING
            for variable, norm, want in zip(self.variables, norms, right, strict=True):
                if norm.shape != (units,) or not _close(norm[unit], want, rounding[0] * abs(want) + room):
                    return str(variable.name)
            for held, factor, gradient in zip(right_sums, self._factors(right), gradients, strict=True):
                held += factor * gradient if factor > 0 else 0.0
        sizes = [float(np.linalg.norm(value)) for value in right_sums]
        room = rounding[1] * max(sizes, default=0.0) + _NOTHING
        for variable, value, exact, size in zip(self.variables, sums, right_sums, sizes, strict=True):
            if not np.linalg.norm(value.numpy() - exact) <= rounding[0] * size + room:
                return str(variable.name)
        return None

    def _factors(self, norms: Sequence[float]) -> list[float]:
        """Return what clipping multiplies a unit's gradient of each variable by; 0 where a norm is not finite."""
        groups = self.keeping.groups
        squared = np.zeros(len(groups.norms))
        np.add.at(squared, list(groups.members), np.square(norms))
        if not np.all(np.isfinite(squared.astype(np.float32))):
            return [0.0] * len(norms)
        factors = np.minimum(1.0, np.array(groups.norms) / np.maximum(np.sqrt(squared), 1e-300))
        return [float(factors[member]) for member in groups.members]


def _close(found: float, expected: float, room: float) -> bool:
    if not np.isfinite(expected):
        return not np.isfinite(found)
    return bool(abs(found - expected) <= room)
