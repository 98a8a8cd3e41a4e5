"""What one variable's per-example gradients are made of, and the two things clipping needs of them.

A part holds the per-example gradients of one variable in whatever form is cheap: their squared norms and their
weighted sum come out of it, most often without forming a gradient for each example (Goodfellow 2015, arXiv 1510.01799;
Li et al. 2022, arXiv 2110.05679, section 4; Bu et al. 2023, "Differentially Private Optimization on Large Model at
Small Cost", arXiv 2210.00038, section 2, which names the one-backward form book-keeping).

Letters in shapes: B examples, T positions, P inputs and Q outputs of a linear map, V rows and E columns of an
embedding. All tensors are floats of the model's dtype unless stated otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Protocol

import tensorflow as tf

from privacy_pipeline.dp.clipping.row_norms import (
    Repair,
    kept,
    largest_sizes,
    lost_to_underflow,
    repaired,
    repairing,
    scaled,
    squared,
)
from privacy_pipeline.dp.graphs.tracing import unconverted

# One materialised gradient of P*Q numbers is written and read once more; this is what that costs in multiplications.
_MEMORY_COST = 4
# Room for rounding in inner products of inner products, in units of the float's epsilon; see `MatrixPart`.
_GRAM_ROUNDING = 2.0


class Part(Protocol):
    """Per-example gradients of one variable."""

    def squared_norm(self) -> Any:
        """Squared L2 norm of each example's gradient, float64 [B]: the square of any float32 number is one there."""

    def weighted_sum(self, weights: Any) -> Any:
        """Return the sum under `weights` [B], in the variable's shape. Weight 0 removes NaN and infinity too."""

    def per_example(self) -> Any:
        """Return the gradients themselves, [B, *variable.shape]."""


def squared_norms_of(parts: Sequence[Part | None], units: Any) -> list[Any]:
    """Return the squared norms of several parts, float64 [B] each; zeros for None.

    One branch serves all of them, which is much faster to trace than a branch each.

    Args:
        parts: the parts.
        units: number of units, int32 [1].
    """

    def found(repair: Repair) -> list[Any]:
        with repairing(repair):
            return [tf.zeros(units, tf.float64) if part is None else part.squared_norm() for part in parts]

    usual = found(Repair.NEVER)
    finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(one)) for one in usual])
    return list(tf.cond(finite, lambda: usual, lambda: found(Repair.ALWAYS)))


@dataclass(frozen=True)
class VectorPart:
    """Gradients in full. For variables that are small (biases, scales), and for all that has no cheaper form.

    Attributes:
        gradients: [B, *variable.shape].
    """

    gradients: Any

    def squared_norm(self) -> Any:
        """Return the squared norms, [B]."""
        return squared(self.gradients)

    def weighted_sum(self, weights: Any) -> Any:
        """Return the sum under weights [B], in the variable's shape."""
        rows = tf.shape(self.gradients)[0]
        # Where a kernel needs the same scaled gradients, TensorFlow computes them once. A product sums columns fastest.
        safe = scaled(self.gradients, weights)
        summed = tf.linalg.matvec(tf.reshape(safe, [rows, -1]), tf.ones_like(weights), transpose_a=True)
        return tf.reshape(summed, tf.shape(self.gradients)[1:])

    def per_example(self) -> Any:
        """Return the gradients, [B, *variable.shape]."""
        return self.gradients


@dataclass(frozen=True)
class OuterPart:
    """Gradients that are outer products: a linear map of one position. Nothing of size P*Q is formed per example.

    Attributes:
        inputs: [B, P].
        outputs: gradients of the pre-activations, [B, Q].
        shape: the variable's shape; P*Q numbers, P slow and Q fast.
    """

    inputs: Any
    outputs: Any
    shape: Any

    def squared_norm(self) -> Any:
        """Return the squared norms, [B]."""
        inputs, outputs = squared(self.inputs), squared(self.outputs)
        return (inputs + lost_to_underflow(self.inputs)) * (outputs + lost_to_underflow(self.outputs))

    def weighted_sum(self, weights: Any) -> Any:
        """Return the sum under weights [B], in the variable's shape."""
        product = tf.matmul(kept(self.inputs, weights), scaled(self.outputs, weights), transpose_a=True)
        return tf.reshape(product, self.shape)

    def per_example(self) -> Any:
        """Return the gradients, [B, *variable.shape]."""
        product = self.inputs[:, :, None] * self.outputs[:, None, :]
        return tf.reshape(product, tf.concat([tf.shape(product)[:1], self.shape], 0))


def is_direct(positions: int | None, inputs: int, outputs: int) -> bool:
    """Return whether a linear map's gradients are better formed than left as inner products of T x T positions."""
    if positions is None:
        return False
    width, ghost = inputs * outputs, positions**2 * (inputs + outputs)
    return ghost > _MEMORY_COST * width and width <= 16 * max(positions**2, 4096)


@dataclass(frozen=True)
class MatrixPart:
    """Gradients that are sums of outer products over positions: linear maps on sequences, convolutions.

    The norm comes from T x T inner products (ghost norm: |sum_t a_t d_t'|^2 = sum_ts <a_t,a_s><d_t,d_s>) or from the
    gradient itself, whichever needs less work; the gradient, once formed, serves the weighted sum as well.

    The ghost form can cancel: a gradient that is small beside its terms may seem smaller than it is, and clipping
    would let it pass. The rounding it may suffer, at most a small multiple of eps * (sum_t |a_t||d_t|)^2, and what
    underflow may take (see `lost_to_underflow`), are added to the norm, so that the norm errs upwards.

    Attributes:
        inputs: [B, T, P].
        outputs: gradients of the pre-activations, [B, T, Q].
        shape: the variable's shape; P*Q numbers, P slow and Q fast.
    """

    inputs: Any
    outputs: Any
    shape: Any
    _cache: dict[str, Any] = field(default_factory=dict)

    def _is_direct(self) -> bool:
        return is_direct(self.inputs.shape[1], self.inputs.shape[2], self.outputs.shape[2])

    def _gradients(self) -> Any:
        if "gradients" not in self._cache:
            self._cache["gradients"] = tf.matmul(self.inputs, self.outputs, transpose_a=True)
        return self._cache["gradients"]

    def squared_norm(self) -> Any:
        """Return the squared norms, [B]."""
        if self._is_direct():
            return squared(self._gradients())
        found = tf.cast(self._ghost(self.inputs, self.outputs), tf.float64)

        def again() -> Any:
            sides = [(side, largest_sizes(side, [1, 2])) for side in (self.inputs, self.outputs)]
            scaled_down = self._ghost(*(side / largest for side, largest in sides))
            factors = [tf.square(tf.cast(tf.reshape(largest, [-1]), tf.float64)) for _, largest in sides]
            return tf.where(tf.math.is_finite(found), found, tf.cast(scaled_down, tf.float64) * factors[0] * factors[1])

        # A product of inner products leaves float32 long before the gradient does.
        return repaired(found, again)

    @staticmethod
    def _ghost(inputs: Any, outputs: Any) -> Any:
        """Return squared norms by inner products, in the dtype of the two sides, with room for rounding."""
        left = tf.matmul(inputs, inputs, transpose_b=True)
        right = tf.matmul(outputs, outputs, transpose_b=True)
        lengths = [tf.sqrt(tf.linalg.diag_part(gram)) for gram in (left, right)]
        eps = tf.experimental.numpy.finfo(inputs.dtype.as_numpy_dtype).eps
        room = _GRAM_ROUNDING * float(eps) * tf.square(tf.reduce_sum(lengths[0] * lengths[1], axis=1))
        for other, values in ((lengths[0], outputs), (lengths[1], inputs)):
            room += lost_to_underflow(values) * tf.square(tf.reduce_sum(other, axis=1))
        return tf.maximum(tf.reduce_sum(left * right, axis=[1, 2]), 0.0) + room

    def weighted_sum(self, weights: Any) -> Any:
        """Return the sum under weights [B], in the variable's shape."""
        if self._is_direct():
            return tf.reshape(VectorPart(self._gradients()).weighted_sum(weights), self.shape)
        inputs, outputs = kept(self.inputs, weights), scaled(self.outputs, weights)
        flat = [tf.reshape(side, [-1, side.shape[2]]) for side in (inputs, outputs)]
        return tf.reshape(tf.matmul(flat[0], flat[1], transpose_a=True), self.shape)

    def per_example(self) -> Any:
        """Return the gradients, [B, *variable.shape]."""
        gradients = self._gradients()
        return tf.reshape(gradients, tf.concat([tf.shape(gradients)[:1], self.shape], 0))


@dataclass(frozen=True)
class EmbeddingPart:
    """Gradients of an embedding: rows that were looked up get the sum of the gradients of their positions.

    Attributes:
        ids: rows looked up, int64, [B, T].
        outputs: gradients of what was looked up, [B, T, E].
        rows: V, rows of the embedding.
    """

    ids: Any
    outputs: Any
    rows: int

    def squared_norm(self) -> Any:
        """Return the squared norms, [B]."""
        if self.ids.shape[1] == 1:
            return squared(self.outputs)
        # Gradients of the same row in the same example add up before they are squared.
        examples = tf.shape(self.ids, out_type=tf.int64)[0]
        owner = tf.broadcast_to(tf.range(examples)[:, None], tf.shape(self.ids))
        keys, place = tf.unique(tf.reshape(owner * self.rows + self.ids, [-1]), out_idx=tf.int64)
        flat = tf.reshape(self.outputs, [-1, self.outputs.shape[2]])
        rows = tf.math.unsorted_segment_sum(flat, place, tf.size(keys, out_type=tf.int64))
        return tf.math.unsorted_segment_sum(squared(rows), keys // self.rows, examples)

    def weighted_sum(self, weights: Any) -> Any:
        """Return the sum under weights [B], in the variable's shape."""
        flat = tf.reshape(scaled(self.outputs, weights), [-1, self.outputs.shape[2]])
        return tf.math.unsorted_segment_sum(flat, tf.reshape(self.ids, [-1]), self.rows)

    def per_example(self) -> Any:
        """Return the gradients, [B, *variable.shape]."""
        picked = tf.one_hot(self.ids, self.rows, dtype=self.outputs.dtype)
        return tf.einsum("btv,bte->bve", picked, self.outputs)


@dataclass(frozen=True)
class LazyPart:
    """Gradients that functions compute, for what has no closed form (see `local_rule`).

    Attributes:
        norm: gives norms as `row_norms` does, [B].
        weigh: gives the sum under weights [B], in the variable's shape.
        full: gives the gradients, [B, *variable.shape].
        uses: tensors of the batch that the functions work on, [B, ...].
    """

    norm: Callable[[], Any]
    weigh: Callable[[Any], Any]
    full: Callable[[], Any]
    uses: tuple[Any, ...] = ()

    def squared_norm(self) -> Any:
        """Return the squared norms, [B]."""
        with repairing(Repair.EACH):  # inside loops of their own
            return tf.square(tf.cast(self.norm(), tf.float64))

    def weighted_sum(self, weights: Any) -> Any:
        """Return the sum under weights [B], in the variable's shape."""
        return self.weigh(weights)

    def per_example(self) -> Any:
        """Return the gradients, [B, *variable.shape]."""
        return self.full()


@unconverted
def tensors_of_part(part: Part) -> list[Any]:
    """Return tensors [B, ...] that a part's norms and sums are computed from, each example's from its own row.

    Raises:
        TypeError: the part is not a dataclass that holds tensors.
    """
    if isinstance(part, LazyPart):
        return list(part.uses)
    held: list[Any] = [getattr(part, one.name) for one in fields(part)] if is_dataclass(part) else []
    tensors = [value for value in held if tf.is_tensor(value)]
    if not tensors:
        raise TypeError(f"{type(part).__name__} does not hold the tensors it works on as fields of a dataclass")
    return tensors


def as_sequence(part: OuterPart | MatrixPart) -> MatrixPart:
    """Return a linear map's part with positions, also if there is one only."""
    if isinstance(part, MatrixPart):
        return part
    return MatrixPart(part.inputs[:, None, :], part.outputs[:, None, :], part.shape)
