"""Inputs and layers of a network, from their entries in the architecture file: each value is checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from privacy_pipeline.encrypted.model.layer_shapes import LARGEST_CUT, LARGEST_FACTOR
from privacy_pipeline.encrypted.model.layers import Input, Layer, Shape

_MOST_AXES = 8


def input_from(entry: Mapping[str, Any]) -> Input:
    """Return an input from its entry.

    Raises:
        ValueError, KeyError, TypeError: the entry is not one of an input.
    """
    lower, upper = (tuple(float(end) for end in entry[side]) for side in ("lower", "upper"))
    shape, sizes = _shape(entry["shape"]), {len(lower), len(upper)}
    if sizes != {1} and sizes != {shape[-1] if shape else 1}:
        raise ValueError(f"a range of {sorted(sizes)} numbers for {shape}")
    if not all(-math.inf < low <= high < math.inf for low, high in zip(lower, upper, strict=True)):
        raise ValueError("a range that is none")
    return Input(
        name=str(entry["name"]),
        shape=shape,
        vocabulary=_whole(entry["vocabulary"], 2**31),
        lower=lower,
        upper=upper,
        scale=positive(entry["scale"]),
    )


def layer_from(entry: Mapping[str, Any]) -> Layer:
    """Return a layer from its entry.

    Raises:
        ValueError, KeyError, TypeError: the entry is not one of a layer.
    """
    return Layer(
        name=str(entry["name"]),
        op=str(entry["op"]),
        inputs=tuple(str(name) for name in entry["inputs"]),
        config={str(key): tuple(value) if isinstance(value, list) else value for key, value in entry["config"].items()},
        weights={str(role): _shape(shape) for role, shape in entry["weights"].items()},
        scale=positive(entry["scale"]),
        cut=_whole(entry["cut"], LARGEST_CUT),
        factor=_whole(entry["factor"], LARGEST_FACTOR),
    )


def positive(value: Any) -> float:
    """Return a finite number above 0.

    Raises:
        ValueError: it is not one.
    """
    found = float(value)
    if not 0 < found < math.inf:
        raise ValueError(f"{value} is not a positive number")
    return found


def _whole(value: Any, largest: int) -> int:
    if type(value) is not int or not 0 <= value <= largest:
        raise ValueError(f"{value} is not an integer from 0 to {largest}")
    return value


def _shape(value: Any) -> Shape:
    shape = tuple(value)
    if len(shape) > _MOST_AXES or not all(_whole(size, 2**31 - 1) for size in shape):
        raise ValueError(f"{value} is not a shape")
    return shape
