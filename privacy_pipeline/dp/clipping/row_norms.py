"""Norms of the rows of a tensor, and rows under weights: no row's result depends on another row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import cache
from typing import Any

import tensorflow as tf

from privacy_pipeline.dp.graphs.buffers import aligned_zeros, to_tensor

# Rows of zeros that are kept at hand, and the most bytes that one may have: 128 MiB of addresses, none of memory.
_ZERO_ROWS = 8192
_WIDEST_ZEROS = 16384


def _by_example(weights: Any, rank: int) -> Any:
    return tf.reshape(weights, [-1] + [1] * (rank - 1))


def scaled(values: Any, weights: Any) -> Any:
    """Return rows of `values` [B, ...] times `weights` [B]; a row of weight 0 is 0 whatever it held."""
    return tf.math.multiply_no_nan(values, _by_example(weights, values.shape.rank))


def kept(values: Any, weights: Any) -> Any:
    """Return rows of `values` [B, ...] whose weight is not 0, unchanged; the others as zeros."""
    # The first version of the op takes one flag a row and copies whole rows; `tf.where` would broadcast, at twice the
    # cost. It is the same work whatever the flags are.
    return tf.raw_ops.Select(condition=weights > 0, x=values, y=_zeros_like(values))


def _zeros_like(values: Any) -> Any:
    """Return zeros of the shape of `values` [B, P]: for usual sizes a view of pages that are never written."""
    width = values.shape[1:].num_elements()
    if values.shape.rank != 2 or width is None or width * values.dtype.size > _WIDEST_ZEROS:
        return tf.zeros_like(values)
    rows = tf.shape(values)[0]
    pages = _zero_pages(width, values.dtype.as_numpy_dtype)
    return tf.cond(rows <= _ZERO_ROWS, lambda: pages[:rows], lambda: tf.zeros_like(values))


@cache
def _zero_pages(width: int, dtype: Any) -> Any:
    with tf.init_scope():
        return to_tensor(aligned_zeros([_ZERO_ROWS, width], dtype))


def row_norms(values: Any) -> Any:
    """L2 norm of each row of `values` [B, ...], [B], in their dtype; not finite where the row, or its norm, is not.

    The squares are summed in that dtype, which is fast. Where one overflows, those of its row are summed again with the
    row over its largest number; other rows keep their bits, so that no row's norm depends on another row. What
    underflow takes, below 1e-19 in a number, is far below any clipping norm in range.
    """
    axes = list(range(1, values.shape.rank))
    # One pass over memory; squaring first would write and read all squares.
    norms = tf.math.reduce_euclidean_norm(values, axis=axes)

    def again() -> Any:
        largest = largest_sizes(values, axes)
        wide = tf.math.reduce_euclidean_norm(values / largest, axis=axes) * tf.reshape(largest, [-1])
        return tf.where(tf.math.is_finite(norms), norms, wide)

    return repaired(norms, again)


class Repair(Enum):
    """Where norms whose squares overflowed are formed again: in a branch of each, nowhere, or in any case."""

    EACH = "each"
    NEVER = "never"
    ALWAYS = "always"


_REPAIR = [Repair.EACH]


@contextmanager
def repairing(repair: Repair) -> Iterator[None]:
    """While open, norms whose squares overflowed are formed again as `repair` has it."""
    _REPAIR.append(repair)
    try:
        yield
    finally:
        _REPAIR.pop()


def repaired(norms: Any, again: Callable[[], Any]) -> Any:
    """Return norms, or what `again` gives where one of them is not finite."""
    if _REPAIR[-1] is Repair.NEVER:
        return norms
    if _REPAIR[-1] is Repair.ALWAYS:
        return again()
    return tf.cond(tf.reduce_all(tf.math.is_finite(norms)), lambda: norms, again)


def largest_sizes(values: Any, axes: list[int]) -> Any:
    """Return the largest size of each row's numbers, 1 for rows of zeros; axes kept. Infinite over infinite is NaN."""
    largest = tf.reduce_max(tf.abs(values), axis=axes, keepdims=True)
    return tf.where(largest > 0, largest, tf.ones_like(largest))


def squared(values: Any) -> Any:
    """Return the squared L2 norm of each row of `values` [B, ...], float64 [B]."""
    return tf.square(tf.cast(row_norms(values), tf.float64))


def lost_to_underflow(values: Any) -> Any:
    """Return the most that underflow may take from a squared norm of the last axis of `values`.

    Squares below the smallest normal number may count as 0. As the norm of a gradient that is harmless; but a factor
    of a gradient may be as small as that while the other factor is huge, and the norm must not seem smaller than it is.
    """
    tiny = float(tf.experimental.numpy.finfo(values.dtype.as_numpy_dtype).tiny)
    width = values.shape[-1]
    return tiny * (tf.cast(tf.shape(values)[-1], tf.float64) if width is None else width)
