"""Rows of the model's inputs as numbers that can be shared: integers as one-hot vectors, floats within their range."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.encrypted.model.layers import Input
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.errors import BadInputError

Where = Callable[[int], str]  # index of a row -> the words for its place


def encode_inputs(
    model: PrivateModel, inputs: Mapping[str, NDArray[Any]], *, rows: int, where: Where = "row {}".format
) -> dict[str, NDArray[np.float64]]:
    """Encode all inputs of some rows; runs at the client.

    Args:
        model: the network, of which only the inputs are looked at.
        inputs: by name, each [rows, ...].
        rows: how many.
        where: tells in an error which row it is.

    Returns:
        By name, each [rows, *shares.encoded_shape(input)].

    Raises:
        BadInputError: a value is missing, has another shape, or is outside its range.
    """
    checked = require_within(model, inputs, rows=rows, where=where)
    return {
        one.name: np.eye(one.vocabulary)[checked[one.name].astype(np.int64)] if one.vocabulary else checked[one.name]
        for one in model.inputs
    }


def require_within(
    model: PrivateModel, inputs: Mapping[str, NDArray[Any]], *, rows: int, where: Where = "row {}".format
) -> dict[str, NDArray[np.float64]]:
    """Return the inputs of some rows as numbers, each [rows, *input.shape], within their public ranges.

    Raises:
        BadInputError: a value is missing, has another shape, or is outside its range; arguments as for `encode_inputs`.
    """
    found = {}
    for one in model.inputs:
        if one.name not in inputs:
            raise BadInputError(f"the batch lacks input '{one.name}'", fix="give every input of the model")
        value = np.asarray(inputs[one.name])
        if value.shape != (rows, *one.shape):
            raise BadInputError(f"input '{one.name}' has shape {value.shape}, not {(rows, *one.shape)}", fix="")
        found[one.name] = _whole(one, value, where) if one.vocabulary else _in_range(one, value, where)
    return found


def cut(inputs: Mapping[str, NDArray[Any]], start: int, batch: int) -> dict[str, NDArray[Any]]:
    """Return `batch` rows from `start` on, each [batch, ...]; the last row again where there are fewer."""
    rows = len(next(iter(inputs.values())))
    index = np.minimum(np.arange(start, start + batch), rows - 1)
    return {name: values[index] for name, values in inputs.items()}


def _whole(one: Input, value: NDArray[Any], where: Where) -> NDArray[np.float64]:
    numbers = value.astype(np.float64)
    fits = (numbers == np.floor(numbers)) & (numbers >= 0) & (numbers < one.vocabulary)
    if not fits.all():
        raise BadInputError(
            f"{where(_first(~fits))}: input '{one.name}' is not an integer from 0 to {one.vocabulary - 1}",
            fix="correct the rows",
        )
    return numbers


def _in_range(one: Input, value: NDArray[Any], where: Where) -> NDArray[np.float64]:
    found = value.astype(np.float64)
    low, high = (np.broadcast_to(np.array(end), found.shape) for end in (one.lower, one.upper))
    fits = (low <= found) & (found <= high)  # False for a NaN
    if not fits.all():
        place = tuple(int(index) for index in np.argwhere(~fits)[0])
        element = f" (element {', '.join(map(str, place[1:]))})" if math.prod(one.shape) > 1 else ""
        raise BadInputError(
            f"{where(place[0])}: input '{one.name}'{element} is {found[place]:g}, and private predictions are proven "
            f"from {low[place]:g} to {high[place]:g}",
            fix="scale it in preprocessing_fn, or state a larger training.encrypted.input_range",
        )
    return found


def _first(wrong: NDArray[np.bool_]) -> int:
    return int(np.argwhere(wrong)[0][0])
