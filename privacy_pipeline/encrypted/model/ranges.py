"""Intervals of what the layers of a private network can give, and bounds of what rounding adds. NumPy alone.

Every bound has room for the rounding of float64, in which it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.encrypted.model import reference
from privacy_pipeline.encrypted.model.layers import Input, Layer
from privacy_pipeline.encrypted.model.reference import window_counts

_KERNELS = {"affine": "scale", "embedding": "table"}
_ADDED = ("bias", "shift")
_FLOAT = 2.0**-36  # of the sum of all absolute terms: 2^16 additions in float64
_ENDS = 2.0**-48

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Range:
    """Values within center - radius and center + radius in exact arithmetic, computed up to `error`; each [1, ...]."""

    center: Array
    radius: Array
    error: Array

    @property
    def reach(self) -> Array:
        """Largest absolute value in exact arithmetic, elementwise."""
        return np.abs(self.center) + self.radius

    @property
    def largest(self) -> float:
        """Largest absolute value that is computed."""
        return float((self.reach + self.error).max(initial=0))

    @classmethod
    def between(cls, low: Array, high: Array, error: Array) -> Range:
        """Return the range between two ends."""
        radius = (high - low) / 2 * (1 + _ENDS) + _ENDS * np.maximum(np.abs(low), np.abs(high))
        return cls(center=(low + high) / 2, radius=radius, error=error)

    @property
    def ends(self) -> tuple[Array, Array]:
        """The lowest and the highest value."""
        return self.center - self.radius, self.center + self.radius


@dataclass(frozen=True, kw_only=True)
class Product:
    """A linear layer before a scale is chosen.

    Attributes:
        range: of what it gives; its error is what the input's error becomes.
        kernel, added: weights, and weights that are added, 0 for none.
        given: range of the input; None for an integer that is looked up.
        apply: the linear map, of an input and a kernel.
    """

    range: Range
    kernel: Array
    added: Array
    given: Range
    apply: Callable[[Array, Array], Array]

    @property
    def largest(self) -> float:
        """Absolute value that it can give."""
        return self.range.largest

    @property
    def largest_weight(self) -> float:
        """Absolute value of a weight."""
        return float(np.abs(self.kernel).max(initial=0))

    @property
    def largest_added(self) -> float:
        """Absolute value of an added weight."""
        return float(np.abs(self.added).max(initial=0))

    def rounded(self, layer: Layer, scale: float) -> Range:
        """Return the range with the error of weights that are rounded, and of bits that are cut off.

        Args:
            layer: with its scale and cut.
            scale: of the input.
        """
        unit = layer.scale * 2.0**layer.cut
        kernel = np.rint(self.kernel * (unit / scale)) / (unit / scale)
        off = np.abs(np.rint(self.added * unit) / unit - self.added)
        error = self.apply(self.given.error, np.abs(kernel)) + self.apply(
            self.given.reach, np.abs(kernel - self.kernel)
        )
        floating = _FLOAT * (self.apply(self.given.reach, np.abs(self.kernel)) + np.abs(self.added))
        found = error * (1 + _FLOAT) + off + floating + 1 / layer.scale
        return Range(
            center=self.range.center, radius=self.range.radius, error=np.broadcast_to(found, self.range.center.shape)
        )


def product(layer: Layer, given: Range, held: Mapping[str, Array]) -> Product:
    """Return a linear layer on a range.

    Args:
        layer: a dense or convolutional one, an affine map or an embedding.
        given: range of its input.
        held: weights by role.
    """
    role = _KERNELS.get(layer.op, "kernel")
    kernel = held[role]
    added = next((held[name] for name in _ADDED if name in held), np.zeros(1))
    if layer.op == "embedding":
        return _embedding(given, kernel)

    def apply(x: Array, weights: Array) -> Array:
        return reference.apply(layer, [x], {role: weights})

    size = np.abs(kernel)
    floating = _FLOAT * (apply(given.reach, size) + np.abs(added))
    found = Range(
        center=apply(given.center, kernel) + added,
        radius=apply(given.radius, size) * (1 + _FLOAT) + floating,
        error=apply(given.error, size),
    )
    return Product(range=found, kernel=kernel, added=added, given=given, apply=apply)


def _embedding(given: Range, table: Array) -> Product:
    """Return any row of the table as its product with a one-hot vector, which has no error."""
    shape = (*given.center.shape, table.shape[1])
    low, high = (np.broadcast_to(end, shape) for end in (table.min(axis=0), table.max(axis=0)))
    one = Range(center=np.ones(1), radius=np.zeros(1), error=np.zeros(1))
    return Product(
        range=Range.between(low, high, np.zeros(shape)),
        kernel=table,
        added=np.zeros(1),
        given=one,
        apply=lambda x, weights: np.abs(weights).max(axis=0) * x,
    )


def of_input(one: Input) -> Range:
    """Return the range that the client keeps to."""
    if one.vocabulary:
        nothing = np.zeros((1, *one.shape))
        return Range(center=nothing, radius=nothing, error=nothing)
    low, high = (np.broadcast_to(np.array(end, np.float64), (1, *one.shape)) for end in (one.lower, one.upper))
    rounded = np.abs(np.rint(low * one.scale) / one.scale - low)  # of a column with one value
    return Range.between(low, high, np.where(low == high, rounded, 0.5 / one.scale))


def of(layer: Layer, given: list[Range], *, scale: float) -> Range:
    """Return the range of what a layer without weights gives.

    Args:
        layer: what is computed.
        given: ranges of its inputs.
        scale: of the first of them.
    """
    if layer.op in ("average_pool", "rescale"):
        return _divided(layer, given[0], scale)
    if layer.op in ("relu", "max_pool"):
        low, high = given[0].ends
        error = given[0].error
        return Range.between(
            _of(layer, [low]), _of(layer, [high]), error if layer.op == "relu" else _of(layer, [error])
        )
    parts = ([getattr(one, part) for one in given] for part in ("center", "radius", "error"))
    center, radius, error = (_of(layer, part) for part in parts)
    return Range(center=center, radius=radius * (1 + _ENDS) + _ENDS * np.abs(center), error=error * (1 + _ENDS))


def _of(layer: Layer, given: list[Array]) -> Array:
    return reference.apply(layer, given, {})


def _divided(layer: Layer, given: Range, scale: float) -> Range:
    """Return a value or a mean that is multiplied by a whole number that is nearly the right one, and cut."""
    reach = _of(layer, [given.reach])
    shape = given.center.shape[1:]
    counts = window_counts(layer, shape) if layer.op == "average_pool" else np.ones(1)
    off = np.abs(multipliers(layer, shape) * counts * scale / (layer.scale * 2.0**layer.cut) - 1) + _ENDS
    error = _of(layer, [given.error]) * (1 + off) + reach * off + (1 / layer.scale if layer.cut else 0.0)
    return Range(
        center=_of(layer, [given.center]),
        radius=_of(layer, [given.radius]) * (1 + _FLOAT) + _FLOAT * reach,
        error=error * (1 + _FLOAT),
    )


def multipliers(layer: Layer, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the integers by which `average_pool` multiplies its sums, and `rescale` its input, of one row's shape."""
    if layer.op == "rescale":
        return np.array(layer.factor, np.int64)
    counts = window_counts(layer, shape)
    halves = counts // 2
    return (layer.factor + halves) // counts
