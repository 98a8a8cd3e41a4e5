"""Gradients that add up before a norm is taken: of the examples of a unit, and of the uses of a variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from privacy_pipeline.dp.clipping.parts import (
    EmbeddingPart,
    LazyPart,
    MatrixPart,
    OuterPart,
    Part,
    VectorPart,
    as_sequence,
)


def by_unit(part: Part, rows: int) -> Part:
    """Return the part of units that own `rows` consecutive examples each: their gradients are added up.

    Examples become positions, so that norms of linear maps and embeddings come without their gradients. Rows of an
    example that does not count must have zeros for the gradients of their outputs.

    Args:
        part: of B examples; a `LazyPart` is one of units already.
        rows: examples of a unit.
    """
    if rows == 1 or isinstance(part, LazyPart):
        return part
    if isinstance(part, (OuterPart, MatrixPart)):
        sequence = as_sequence(part)
        return MatrixPart(_as_positions(sequence.inputs, rows), _as_positions(sequence.outputs, rows), part.shape)
    if isinstance(part, EmbeddingPart):
        return EmbeddingPart(_as_positions(part.ids, rows), _as_positions(part.outputs, rows), part.rows)
    gradients = part.per_example()
    return VectorPart(tf.reduce_sum(tf.reshape(gradients, tf.concat([[-1, rows], tf.shape(gradients)[1:]], 0)), 1))


def _as_positions(values: Any, rows: int) -> Any:
    """Return [B, T, ...] as [B / rows, rows * T, ...], with T static where it can be."""
    shape = tf.shape(values)
    joined = tf.reshape(values, tf.concat([[shape[0] // rows, rows * shape[1]], shape[2:]], 0))
    known = None if values.shape[1] is None else rows * values.shape[1]
    joined.set_shape([None, known, *values.shape[2:]])
    return joined


def in_units(nest: Any, rows: int) -> Any:
    """Return tensors [B, ...] as [B / rows, rows, ...]."""

    def split(values: Any) -> Any:
        found = tf.reshape(values, tf.concat([[-1, rows], tf.shape(values)[1:]], 0))
        found.set_shape([None, rows, *values.shape[1:]])
        return found

    return tf.nest.map_structure(split, nest)


def combine(parts: Sequence[Part], *, same_layer: bool) -> Part:
    """Return one part for a variable that was used several times: gradients add up before any norm is taken.

    Args:
        parts: one for each use of the variable.
        same_layer: whether all uses are calls of one layer, so that their layouts agree.
    """
    if len(parts) == 1:
        return parts[0]
    linear = [part for part in parts if isinstance(part, (OuterPart, MatrixPart))]
    if same_layer and len(linear) == len(parts):
        sequences = [as_sequence(part) for part in linear]
        joined = [tf.concat([getattr(part, side) for part in sequences], 1) for side in ("inputs", "outputs")]
        return MatrixPart(joined[0], joined[1], sequences[0].shape)
    lookups = [part for part in parts if isinstance(part, EmbeddingPart)]
    if same_layer and len(lookups) == len(parts):
        ids, outputs = (tf.concat([getattr(part, side) for part in lookups], 1) for side in ("ids", "outputs"))
        return EmbeddingPart(ids, outputs, lookups[0].rows)
    return VectorPart(tf.add_n([part.per_example() for part in parts]))
