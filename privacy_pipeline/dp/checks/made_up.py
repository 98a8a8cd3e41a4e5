"""Made-up rows for a model's inputs and labels: public values that look like what the model takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

_WORDS: tuple[bytes, ...] = (b"a", b"b", b"c", b"d")
_UNKNOWN = 2  # size of an axis whose length the data decides
_FEWEST_CLASSES = 2
_MOST_COUNTED = 10_000  # of whole numbers without a known limit
_LONGEST = 4  # positions of a ragged row at most
_VARIATION = 0.1
_STRIDE = 7919  # keeps whole numbers of neighbouring rows apart

# One row: a value for each leaf of (x, y), in the order of `tf.nest.flatten`.
Row = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a row's values are like.

    Attributes:
        scale: size of floats; whole numbers without a known limit reach up to it.
        signed: normal floats in place of uniform ones above 0.
        label: class of the labels, or None for labels that are numbers of the scale.
        missing: what all labels are, in place of the others: -1, or NaN.
        poison: floats of the inputs are NaN.
    """

    scale: float = 1.0
    signed: bool = False
    label: int | None = 0
    missing: float | None = None
    poison: bool = False


def id_limits(model: Any, x: Any) -> list[int | None]:
    """Return ids that the smallest embedding or encoding takes that each input feeds, by leaf of `x`; None without one.

    Args:
        model: Keras model.
        x: nest of `tf.TensorSpec`.
    """
    leaves = tf.nest.flatten(x)
    limits = {id(layer): limit for layer in model._flatten_layers() if (limit := _ids_of(layer)) is not None}
    tables = [layer for layer in model._flatten_layers() if id(layer) in limits]
    smallest = min(limits.values(), default=None)
    if not getattr(model, "_is_graph_network", False):
        return [smallest if leaf.dtype.is_integer else None for leaf in leaves]
    outer = list(model.layers)
    found: dict[str, int] = {}
    for layer in tables:
        for node in layer._inbound_nodes if layer in outer else []:
            for name in _sources(node):
                found[name] = min(found.get(name, limits[id(layer)]), limits[id(layer)])
    hidden = smallest if any(layer not in outer for layer in tables) else None
    names = sorted(x) if isinstance(x, dict) else list(model.input_names)
    by_leaf = [found.get(name) for name in names] if len(names) == len(leaves) else [smallest] * len(leaves)
    return [
        limit if limit is not None or not leaf.dtype.is_integer else hidden
        for limit, leaf in zip(by_leaf, leaves, strict=True)
    ]


def _ids_of(layer: Any) -> int | None:
    """Return how many ids a layer takes, from 0."""
    if isinstance(layer, tf.keras.layers.Embedding):
        return int(layer.input_dim)
    if isinstance(layer, tf.keras.layers.CategoryEncoding):
        return None if layer.num_tokens is None else int(layer.num_tokens)
    return None


def _sources(node: Any) -> Iterator[str]:
    """Yield the names of the model's inputs that reach a node of its graph through layers without weights."""
    for tensor in tf.nest.flatten(node.keras_inputs):
        layer, number, _ = tensor._keras_history
        before = layer._inbound_nodes[number]
        if before.is_input:
            yield layer.name
        elif not layer.weights:
            yield from _sources(before)


def _vocabulary(model: Any) -> tuple[bytes, ...]:
    """Return words that the model's own lookups hold; a few letters without one."""
    known: list[bytes] = []
    for layer in model._flatten_layers():
        if isinstance(layer, tf.keras.layers.StringLookup):
            known.extend(str(word).encode() for word in layer.get_vocabulary()[: len(_WORDS)])
    return (*known, *_WORDS)


def _class_counts(outputs: Any, y: Any) -> list[int]:
    """Return how many classes each leaf of the labels has, by the widths of the outputs; 1 if they do not show it."""
    shapes = [shape for shape in outputs if shape.rank is not None and shape.rank > 1 and shape[-1] is not None]
    leaves = tf.nest.flatten(y)
    if len(shapes) == len(leaves):
        widths = [int(shape[-1]) for shape in shapes]
    else:
        widths = [min((int(shape[-1]) for shape in shapes if shape[-1] > 1), default=1)] * len(leaves)
    return widths


class MadeUp:
    """Rows for a model.

    Args:
        model: Keras model.
        x: nest of `tf.TensorSpec` or `tf.RaggedTensorSpec` of the inputs, [None, ...].
        y: nest of those of the labels.
        outputs: static shapes of the model's outputs, in the order of `tf.nest.flatten`.
    """

    def __init__(self, *, model: Any, x: Any, y: Any, outputs: Sequence[Any] = ()) -> None:
        self._nest = (x, y)
        self._x, self._y = tf.nest.flatten(x), tf.nest.flatten(y)
        self._limits = id_limits(model, x)
        self._words = _vocabulary(model)
        self._classes = _class_counts(outputs, y)

    def dimensions(self) -> set[int]:
        """Return static sizes of the axes of inputs and labels."""
        return {size for spec in (*self._x, *self._y) for size in _shape(spec)}

    def row(self, number: int, kind: Kind) -> Row:
        """Return the row of a number; whole numbers, words and flags of two rows that follow one another differ."""
        made = [
            self._input(place, spec, number, kind, limit)
            for place, (spec, limit) in enumerate(zip(self._x, self._limits, strict=True))
        ]
        labels = [
            self._label(len(made) + place, spec, number, kind, classes)
            for place, (spec, classes) in enumerate(zip(self._y, self._classes, strict=True))
        ]
        return (*made, *labels)

    def batch(self, rows: Sequence[Row]) -> tuple[Any, Any]:
        """Return nests of tensors, (x, y), of some rows in their order."""
        leaves = [_stacked(spec, [row[place] for row in rows]) for place, spec in enumerate((*self._x, *self._y))]
        x, y = tf.nest.pack_sequence_as(self._nest, leaves)
        return x, y

    def _input(self, place: int, spec: Any, number: int, kind: Kind, limit: int | None) -> Any:
        def make(shape: list[int]) -> Any:
            return self._values(spec.dtype, shape, place=place, number=number, kind=kind, limit=limit)

        return _with_lengths(spec, number, make)

    def _values(self, dtype: Any, shape: list[int], *, place: int, number: int, kind: Kind, limit: int | None) -> Any:
        positions = np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)
        if dtype == tf.string:
            return np.array(self._words, object)[(number + positions) % len(self._words)]
        if dtype == tf.bool:
            return (number + positions) % 2 > 0
        if limit is not None or not dtype.is_floating:
            largest = limit if limit is not None else int(min(kind.scale, _MOST_COUNTED)) + 2
            ids = (positions * (place + 1) + number * (_STRIDE if largest > len(self._words) else 1)) % largest
            if ids.size > 1 and largest > 1:
                ids.flat[0] = max(1, ids.flat[0])  # a sequence that is masked from end to end has no mean
            return ids.astype(dtype.as_numpy_dtype)
        if kind.poison:
            return np.full(shape, np.nan, dtype.as_numpy_dtype)
        return _floats(dtype, shape, place=place, number=number, kind=kind)

    def _label(self, place: int, spec: Any, number: int, kind: Kind, classes: int) -> Any:
        shape = [_UNKNOWN if size is None else size for size in _shape(spec, known=False)]
        dtype = spec.dtype
        if dtype == tf.string or dtype == tf.bool:
            return self._values(dtype, shape, place=place, number=number, kind=kind, limit=None)
        numbers = dtype.is_floating or dtype.is_integer
        if numbers and kind.missing is not None:
            value = kind.missing if dtype.is_floating else -1
            return np.full(shape, value).astype(dtype.as_numpy_dtype)
        if kind.label is None and dtype.is_floating:
            return _floats(dtype, shape, place=place, number=number, kind=kind)
        label = kind.label if kind.label is not None else number
        if kind.label is None and classes == 1:
            classes = int(min(kind.scale, _MOST_COUNTED)) + _FEWEST_CLASSES  # counts of something
        classes = max(_FEWEST_CLASSES, classes)
        if shape and shape[-1] == classes and classes > 1:
            hot = np.zeros(shape)
            hot[..., label % classes] = 1
            return hot.astype(dtype.as_numpy_dtype)
        last = np.arange(shape[-1]) if shape and shape[-1] > 1 else 0
        return np.broadcast_to((label + last) % classes, shape).astype(dtype.as_numpy_dtype)


def _shape(spec: Any, *, known: bool = True) -> list[Any]:
    """Return sizes of the axes of one row; the known ones alone, or all."""
    sizes = spec.shape[1:].as_list()
    return [size for size in sizes if size is not None] if known else sizes


def _floats(dtype: Any, shape: list[int], *, place: int, number: int, kind: Kind) -> Any:
    generator = np.random.default_rng([place, number])
    values = generator.normal(size=shape) if kind.signed else generator.uniform(size=shape)
    return (values * kind.scale).astype(dtype.as_numpy_dtype)


def _with_lengths(spec: Any, number: int, make: Any) -> Any:
    """Return values of one row: an array, or nested lists of as many positions as the row's number decides."""
    if not isinstance(spec, tf.RaggedTensorSpec):
        return make([_UNKNOWN if size is None else size for size in _shape(spec, known=False)])
    inner = [_UNKNOWN if size is None else size for size in spec.shape[1 + spec.ragged_rank :]]
    lengths = [1 + number // 2 % _LONGEST] + [_UNKNOWN] * (spec.ragged_rank - 1)
    return make([*lengths, *inner]).tolist()


def _stacked(spec: Any, values: Sequence[Any]) -> Any:
    if isinstance(spec, tf.RaggedTensorSpec):
        inner = tuple(_UNKNOWN if size is None else size for size in spec.shape[1 + spec.ragged_rank :])
        return tf.ragged.constant(
            list(values),
            dtype=spec.dtype,
            ragged_rank=spec.ragged_rank,
            inner_shape=inner,
            row_splits_dtype=spec.row_splits_dtype,
        )
    return tf.constant(np.stack(values), spec.dtype)


def computes_in_half(model: Any) -> bool:
    """Return whether some layer of a model computes in half precision."""
    return any(layer.compute_dtype in ("float16", "bfloat16") for layer in model._flatten_layers())


@contextmanager
def varied(variables: Sequence[Any]) -> Iterator[None]:
    """While open, variables whose numbers are all equal have others: zeros would hide what comes before them.

    Args:
        variables: the variables; those of other types than floats stay as they are.
    """
    before: list[tuple[Any, Any]] = []
    try:
        for number, variable in enumerate(variables):
            if variable.dtype.is_floating and bool(tf.reduce_min(variable) == tf.reduce_max(variable)):
                before.append((variable, tf.identity(variable)))
                noise = np.random.default_rng(number).normal(size=variable.shape, scale=_VARIATION)
                variable.assign_add(tf.cast(noise, variable.dtype))
        yield
    finally:
        for variable, value in before:
            variable.assign(value)
