"""What a model does to each row of a batch, layer by layer, forward and backward: one graph for all batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from privacy_pipeline.dp.graphs.tracing import Traced
from privacy_pipeline.dp.noise.masks import draws, keyed_masks

_SEED = (1, 2)
_BUCKETS = 2**20  # of strings, which are compared by their hashes
# Fingerprint of a row of a tensor: two projections, the norm, and how many numbers it has.
_PROJECTIONS, _NORM, _SIZE = 2, 2, 3
_TURNS, _START = (1.2345, 0.7071), 0.5
_WIDEST = 2**16  # numbers of a row that leave the graph as they are


@dataclass
class Trail:
    """The tensors that pass between a model's layers, as they are traced.

    Attributes:
        tape: watches each tensor, so that gradients reach it.
        tensors: in the order in which they were met.
        calls: layer, and places of its inputs and outputs in `tensors`, innermost layers first.
        outputs: static shapes of what the model gave.
    """

    tape: Any
    tensors: list[Any] = field(default_factory=list)
    calls: list[tuple[Any, list[int], list[int]]] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    _places: dict[int, int] = field(default_factory=dict)

    def add(self, nest: Any) -> list[int]:
        """Return places of a nest's tensors; those that are new are watched."""
        found = []
        for value in tf.nest.flatten(nest):
            if not isinstance(value, (tf.Tensor, tf.RaggedTensor)) or value.dtype in (tf.variant, tf.resource):
                continue
            if value.shape.rank == 0:
                continue
            if id(value) not in self._places:
                self._places[id(value)] = len(self.tensors)
                self.tensors.append(value)
                if isinstance(value, tf.Tensor) and value.dtype.is_floating:
                    self.tape.watch(value)
            found.append(self._places[id(value)])
        return found


@contextmanager
def _followed(model: Any, trail: Trail) -> Iterator[None]:
    """While open, the calls of all layers leave their tensors in a trail. Not for use by two threads on one model."""
    graph = tf.compat.v1.get_default_graph()
    before: list[tuple[Any, Any]] = []

    def replaced(layer: Any) -> Callable[..., Any]:
        original = layer._autographed_call()

        def call(*args: Any, **kwargs: Any) -> Any:
            if tf.compat.v1.get_default_graph() is not graph:
                return original(*args, **kwargs)  # inside a loop or branch, which the outer layer's tensors cover
            inputs = trail.add((args, kwargs))
            outputs = original(*args, **kwargs)
            trail.calls.append((layer, inputs, trail.add(outputs)))
            if layer is model:
                trail.outputs = [value.shape for value in tf.nest.flatten(outputs) if hasattr(value, "shape")]
            return outputs

        unconverted: Callable[..., Any] = tf.autograph.experimental.do_not_convert(call)
        return unconverted

    try:
        for layer in {id(layer): layer for layer in model._flatten_layers()}.values():
            wrapper = replaced(layer)
            before.append((layer, layer.__dict__.get("call")))
            layer.__dict__["call"] = wrapper  # past Keras, which would track and wrap it
        yield
    finally:
        for layer, own in before:
            if own is None:
                del layer.__dict__["call"]
            else:
                layer.__dict__["call"] = own


def _plain(value: Any) -> Any:
    """Return a tensor of any type as floats or whole numbers, [rows, ...]; of wide rows only projections."""
    if isinstance(value, tf.RaggedTensor):
        value = value.to_tensor()
    if value.dtype == tf.string:
        value = tf.strings.to_hash_bucket_fast(value, _BUCKETS)
    if value.dtype.is_complex:
        value = tf.abs(value)
    width = value.shape[1:].num_elements() if value.shape.rank is not None else None
    if width is None or width <= _WIDEST:
        return value
    flat = tf.reshape(tf.cast(value, tf.float32), [-1, width])
    angles = tf.cast(tf.range(width), tf.float32)[:, None] * tf.constant(_TURNS, tf.float32) + _START
    return tf.concat([tf.matmul(flat, tf.cos(angles)), tf.math.reduce_euclidean_norm(flat, 1, keepdims=True)], 1)


def _prints(values: NDArray[Any]) -> NDArray[Any]:
    """Return fingerprints of the rows of an array, float64 [rows, 4]."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    width = np.full([len(flat), 1], float(flat.shape[1]))
    # NaN and numbers that are too large are the rule here: they are compared as such.
    with np.errstate(all="ignore"):
        return np.concatenate([flat @ _weights(flat.shape[1]), np.linalg.norm(flat, axis=1, keepdims=True), width], 1)


@cache
def _weights(width: int) -> NDArray[Any]:
    """Return two fixed rows of weights, [width, 2], such as no layer of a model has by chance."""
    return np.asarray(np.cos(np.arange(width)[:, None] * np.array(_TURNS) + _START))


@dataclass(frozen=True)
class Seen:
    """What became of the rows of one batch.

    Attributes:
        losses: float [rows].
        forward: fingerprints of the tensors between the layers, float [tensors, rows, 4]; NaN sizes where a tensor has
            other rows than the batch.
        backward: the same of the gradients of the weighted losses by those tensors.
    """

    losses: NDArray[Any]
    forward: NDArray[Any]
    backward: NDArray[Any]

    def take(self, rows: Sequence[int]) -> Seen:
        """Return what became of some of the rows."""
        picked = list(rows)
        return Seen(self.losses[picked], self.forward[:, picked], self.backward[:, picked])


class Witness:
    """Runs a model in training mode on batches, with the same masks for each of them.

    Args:
        model: built Keras model.
        losses: gives the loss of each example.
        x: nest of `tf.TensorSpec` of the inputs, [None, ...].
        y: nest of `tf.TensorSpec` of the labels.
    """

    def __init__(self, *, model: Any, losses: Callable[[Any, Any, bool], Any], x: Any, y: Any) -> None:
        self._model, self._losses = model, losses
        self._trail = Trail(None)
        self.served_draws = 0
        self._run = Traced(self._traced, x, y, tf.TensorSpec([None], tf.float32))

    def _traced(self, x: Any, y: Any, weights: Any) -> tuple[Any, list[Any], list[Any]]:
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
            trail = Trail(tape)
            trail.add(x)
            with keyed_masks(self._model, tf.constant(_SEED, tf.int64)), _followed(self._model, trail):
                losses = self._losses(x, y, True)
            total = tf.reduce_sum(tf.cast(losses, tf.float32) * weights)
        self._trail = trail
        return losses, *tf.autograph.experimental.do_not_convert(_both)(tape, total, trail.tensors)

    def served(self, x: Any, y: Any) -> Any:
        """Return the losses in inference mode, [batch]; random layers draw the same numbers each time.

        `served_draws` is then how often they drew.
        """
        with keyed_masks(self._model, tf.constant(_SEED, tf.int64)):
            losses = self._losses(x, y, False)
            self.served_draws = draws()
        return losses

    @property
    def graph(self) -> Any:
        """The graph of the training pass."""
        return self._run.concrete.graph

    @property
    def calls(self) -> list[tuple[Any, list[int], list[int]]]:
        """Layers with the places of their inputs and outputs, innermost layers first."""
        _ = self._run.concrete
        return self._trail.calls

    @property
    def outputs(self) -> list[Any]:
        """Static shapes of the model's outputs."""
        _ = self._run.concrete
        return self._trail.outputs

    def see(self, x: Any, y: Any, weights: Sequence[float]) -> Seen:
        """Run a batch.

        Args:
            x: nest of tensors, [rows, ...].
            y: nest of tensors, [rows, ...].
            weights: weights of the losses in the sum whose gradients are looked at, [rows].

        Raises:
            tf.errors.InvalidArgumentError: an op of the model does not take these values.
        """
        losses, forward, backward = self._run(x, y, tf.constant(weights, tf.float32))
        rows = len(weights)
        return Seen(losses.numpy().astype(np.float64), _aligned(forward, rows), _aligned(backward, rows))


def _both(tape: Any, total: Any, tensors: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return tensors, and the gradients of a total by them; no rows where there is no gradient."""
    floats = [value for value in tensors if isinstance(value, tf.Tensor) and value.dtype.is_floating]
    floating = {id(value) for value in floats}
    empty = tf.zeros([0, 1])
    found = iter(_gradients(tape, total, floats, empty))
    gradients = [_plain(tf.convert_to_tensor(next(found))) if id(v) in floating else empty for v in tensors]
    return [_plain(value) for value in tensors], gradients


def _gradients(tape: Any, total: Any, tensors: Sequence[Any], none: Any) -> list[Any]:
    """Return gradients of a total by each tensor; `none` for those behind an op that TensorFlow has no gradient of."""
    if not tensors:
        return []
    try:
        return list(tape.gradient(total, tensors, unconnected_gradients=tf.UnconnectedGradients.ZERO))
    except LookupError:
        # The weights may all lie after that op, as they do after what distorts images.
        return [none] if len(tensors) == 1 else [_gradients(tape, total, [one], none)[0] for one in tensors]


def _aligned(tensors: Sequence[Any], rows: int) -> NDArray[Any]:
    """Return fingerprints as one array [tensors, rows, 4], NaN for tensors whose first axis is not the batch."""
    found = np.full([len(tensors), rows, _SIZE + 1], np.nan)
    for place, value in enumerate(tensors):
        if value.shape[0] == rows:
            found[place] = _prints(value.numpy())
    return found


def changed(before: Seen, after: Seen, *, relative: float, floor: float) -> tuple[bool, NDArray[Any], NDArray[Any]]:
    """Return what differs by more than rounding between the same rows of two batches.

    Args:
        before: the rows in one batch.
        after: the same rows, in the same order, in another one.
        relative: rounding as a share of a value's own size.
        floor: rounding as a share of the largest value of its row.

    Returns:
        Whether losses differ; and for each tensor, bool [tensors], whether it does, and whether its gradient does.
    """
    sizes = _largest(before.forward)
    bad = _differ(before.losses, after.losses, relative * np.abs(before.losses) + floor * sizes)
    flags = []
    for one, two in ((before.forward, after.forward), (before.backward, after.backward)):
        # A tensor that is padded to the longest row has other sizes where the longest row is another one.
        comparable = (one[..., _SIZE] == two[..., _SIZE]) & ~np.isnan(one[..., _SIZE])
        room = relative * np.abs(one[..., _NORM]) + floor * _largest(one)
        differ = np.any([_differ(one[..., k], two[..., k], room) for k in range(_PROJECTIONS + 1)], axis=0)
        flags.append(np.any(differ & comparable, axis=1))
    return bool(np.any(bad)), flags[0], flags[1]


def _largest(prints: NDArray[Any]) -> NDArray[Any]:
    """Return the largest finite norm of each row over all tensors, [rows]."""
    norms = np.where(np.isfinite(prints[..., _NORM]), prints[..., _NORM], 0.0)
    return np.asarray(np.max(norms, axis=0, initial=0.0))


def _differ(one: NDArray[Any], two: NDArray[Any], room: NDArray[Any]) -> NDArray[Any]:
    """Return where two arrays differ by more than `room`, or one alone is finite."""
    finite = np.isfinite(one), np.isfinite(two)
    both = finite[0] & finite[1]
    apart = np.abs(np.where(both, one, 0.0) - np.where(both, two, 0.0))
    return np.asarray((finite[0] != finite[1]) | (both & ~(apart <= np.where(both, room, 0.0))))


def reached(seen: Seen, rows: Sequence[int]) -> NDArray[Any]:
    """For each tensor, bool [tensors], whether the gradients of the weighted losses reach some rows of it."""
    norms = seen.backward[:, list(rows), _NORM]
    return np.asarray(np.any(np.isfinite(norms) & (norms > 0), axis=1))
