"""Checks a model on made-up inputs: examples do not mix, nothing is assigned, and the rules' gradients are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from privacy_pipeline.dp.clipping.gradients import BookKeeping, Losses, Vectorised
from privacy_pipeline.dp.graph_state import require_stateless
from privacy_pipeline.dp.masks import keyed_masks
from privacy_pipeline.dp.tracing import Traced
from privacy_pipeline.errors import BadInputError

_EXAMPLES = 3
_RELATIVE = 1e-3  # float32 over two different orders of summation
_NOTHING = 1e-12  # norms below this are 0 but for rounding


def made_up(spec: Any, *, seed: int = 0, rows: int = _EXAMPLES) -> Any:
    """Values for a nest of `tf.TensorSpec` [None, ...]: floats in (0, 1), whole numbers 0 and 1."""
    generator = np.random.default_rng(seed)

    def make(one: Any) -> Any:
        shape = [rows, *[2 if size is None else size for size in one.shape[1:]]]
        values = generator.uniform(size=shape)
        return tf.cast(values if one.dtype.is_floating else values > 0.5, one.dtype)

    return tf.nest.map_structure(make, spec)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A model's losses, to be checked.

    Attributes:
        model: the model.
        losses: gives the loss of each example.
        x: nest of `tf.TensorSpec` of the inputs, [None, ...].
        y: nest of `tf.TensorSpec` of the labels.
    """

    model: Any
    losses: Losses
    x: Any
    y: Any

    def require_independent(self) -> None:
        """Refuses a model in which one example's loss depends on another, or that writes or adds losses.

        Raises:
            BadInputError: it does.
        """
        self._require_no_writes()
        x, y = made_up(self.x), made_up(self.y, seed=1)
        losses = Traced(lambda a, b: self.losses(a, b, False), self.x, self.y)
        together = losses(x, y).numpy()
        for row in range(_EXAMPLES):
            own = tf.nest.map_structure(lambda v, row=row: v[row : row + 1], (x, y))
            alone = losses(*own).numpy()
            if alone.shape != (1,) or not _close(alone[0], together[row]):
                raise BadInputError(
                    f"model '{self.model.name}': the loss of an example changes with the other examples of its batch",
                    fix="look for a layer or loss that reduces over the batch axis (axis 0)",
                )
        self._require_no_cross_gradients(x, y)

    def _require_no_cross_gradients(self, x: Any, y: Any) -> None:
        """In training mode, where dropout hides what a comparison would show, gradients tell."""

        def influence(a: Any, b: Any) -> list[Any]:
            watched = [value for value in tf.nest.flatten(a) if value.dtype.is_floating]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(watched)
                first = self.losses(a, b, True)[0]
            zero = tf.UnconnectedGradients.ZERO
            return [tf.reduce_max(tf.abs(g[1:])) for g in tape.gradient(first, watched, unconnected_gradients=zero)]

        if any(float(size) > 0 for size in Traced(influence, self.x, self.y)(x, y)):
            raise BadInputError(
                f"model '{self.model.name}': in training, an example's loss depends on other examples of its batch",
                fix="look for a layer that reduces over the batch axis (axis 0) when training",
            )

    def _require_no_writes(self) -> None:
        """Refuses what keeps state or adds losses, in training and out of it, forward and backward."""
        added: list[Any] = []

        def run(a: Any, b: Any) -> Any:
            with keyed_masks(self.model, tf.zeros([2], tf.int64)), tf.GradientTape() as tape:
                total = tf.reduce_sum(self.losses(a, b, True))
            added.extend(self.model.losses)
            return tape.gradient(total, self.model.trainable_variables), self.losses(a, b, False)

        graph = Traced(run, self.x, self.y, autograph=False).concrete.graph
        if added:
            raise BadInputError(
                f"model '{self.model.name}' calls add_loss, whose gradient would not be clipped by example",
                fix="put it into the loss function, as a value for each example",
            )
        require_stateless(graph, model=self.model)

    def vectorises(self, clipper: Vectorised, variables: Sequence[Any]) -> bool:
        """Whether vectorised gradients of the model run, and are right; TensorFlow fails at this for some loops."""
        try:
            return self.disagreement(clipper, variables) is None
        except tf.errors.InvalidArgumentError:
            return False

    def disagreement(self, keeping: BookKeeping | Vectorised, variables: Sequence[Any]) -> str | None:
        """Name of a variable whose norms come out wrong for some unit; None if all are right."""
        rows = _EXAMPLES * keeping.rows
        x, y = made_up(self.x, rows=rows), made_up(self.y, seed=1, rows=rows)

        def expected(a: Any, b: Any) -> list[Any]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(variables)
                total = tf.reduce_sum(self.losses(a, b, False))
            found = tape.gradient(total, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return [tf.norm(tf.convert_to_tensor(gradient)) for gradient in found]

        expect = Traced(expected, self.x, self.y)
        found = Traced(lambda a, b: keeping.squared_norms(a, b, training=False), self.x, self.y)(x, y)
        norms = [np.sqrt(norm.numpy()) for norm in found]
        for row in range(_EXAMPLES):
            cut = slice(row * keeping.rows, (row + 1) * keeping.rows)
            own = tf.nest.map_structure(lambda v, cut=cut: v[cut], (x, y))
            right = [float(norm) for norm in expect(*own)]
            scale = max([abs(norm) for norm in right if np.isfinite(norm)], default=0.0)
            for variable, norm, want in zip(variables, norms, right, strict=True):
                if norm.shape != (_EXAMPLES,) or not _close(norm[row], want, floor=1e-4 * scale + _NOTHING):
                    return str(variable.name)
        return None


def _close(found: float, expected: float, *, floor: float = 1e-6) -> bool:
    if not np.isfinite(expected):
        return not np.isfinite(found)
    return bool(abs(found - expected) <= _RELATIVE * abs(expected) + floor)
