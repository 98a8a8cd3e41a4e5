"""Raw columns to one vector of floats, from public facts alone: domains and ranges of the curated schema.

`privacy_pipeline.data.schema.encoder` decides what value a cell has, here as in a pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.data.schema.encoder import Numbers, Texts, categories, fractions, integers
from privacy_pipeline.data.schema.features import Column, FeaturePlan
from privacy_pipeline.errors import BadInputError

if TYPE_CHECKING:
    from privacy_pipeline.data.reading.csv_table import Cells

_WHOLE = 2**63  # from here on a range of integers is wider than int64


def encode(plan: FeaturePlan, cells: Cells, *, name: str, first: int = 1) -> NDArray[np.float32]:
    """Encode the input columns of some rows.

    A numeric column becomes its place in the public range, 0 to 1, clipped; a categorical one a one-hot code, all zero
    outside its domain. An optional column has one more number, which is 1 where the value is missing.

    Args:
        plan: columns with their public domains and ranges.
        cells: the rows.
        name: of the table, for messages.
        first: number of the first row, for messages.

    Returns:
        float32, [rows, width].

    Raises:
        BadInputError: a column is missing, or a value is none of the column's type.
    """
    encoded = np.empty((cells.num_rows, sum(map(width_of, plan.columns))), np.float32)
    at = 0
    for column in plan.columns:
        part = encoded[:, at : at + width_of(column)]
        _encode(column, Texts.of(column_of(cells, column.name, name)), part, name=name, first=first)
        at += part.shape[1]
    return encoded


def width_of(column: Column) -> int:
    """Return how many numbers `encode` makes of the column."""
    return (len(column.domain) if column.kind == "categorical" else 1) + column.optional


def column_of(cells: Cells, column: str, name: str) -> Any:
    """Return a column by its name.

    Raises:
        BadInputError: it is missing.
    """
    if column not in cells.schema.names:
        raise BadInputError(f"{name}: column '{column}' is missing; it has: {', '.join(cells.schema.names)}")
    return cells.column(column)


def numbers(texts: Texts, *, name: str, column: str, integer: bool = False, first: int = 1) -> Numbers:
    """Return different texts of a column as numbers.

    Args:
        texts: the column.
        name, column: of table and column, for messages.
        integer: whether it is a column of integers.
        first: number of the first row, for messages.

    Raises:
        BadInputError: a value is neither a number nor missing; names the row, counted from 1 without the header.
    """
    found = (integers if integer else fractions)(texts.different)
    if found.wrong.any():
        row = int(np.flatnonzero(texts.spread(found.wrong))[0])
        text = texts.different[int(texts.places[row])].as_py()
        what = "no whole number" if integer else "no number"
        raise BadInputError(f"{name}: column '{column}', row {first + row}: {text!r} is {what}")
    return found


def codes(texts: Texts, column: Column) -> NDArray[np.int64]:
    """Return the place of each different text in the column's public domain, -1 outside of it."""
    places = {value: place for place, value in enumerate(column.domain)}
    return np.array([places.get(text, -1) for text in categories(texts.different, column.dtype)], np.int64)


def one_hot(found: NDArray[np.int64], domain: Sequence[str]) -> NDArray[np.float32]:
    """Return one column for each value of the domain, float32, [rows, domain]."""
    return np.asarray(found[:, np.newaxis] == np.arange(len(domain)), dtype=np.float32)


def _encode(column: Column, texts: Texts, encoded: NDArray[np.float32], *, name: str, first: int) -> None:
    """Write the encoded column into a part of the rows' vectors."""
    if column.dtype == "bytes":
        missing = np.array([not text for text in texts.different.to_pylist()], np.bool_)
    else:
        found = numbers(texts, name=name, column=column.name, integer=column.dtype == "int", first=first)
        missing = found.missing
    if column.kind == "categorical":
        encoded[:, : len(column.domain)] = texts.spread(one_hot(codes(texts, column), column.domain))
    else:
        encoded[:, 0] = texts.spread(np.where(missing, 0.0, _scaled(found.values, column)))
    if column.optional:
        encoded[:, -1] = texts.spread(missing)


def _scaled(values: NDArray[Any], column: Column) -> NDArray[np.float64]:
    low, high = column.minimum, column.maximum
    if low is None or high is None:
        plain = values.astype(np.float64)
        return np.asarray(np.sign(plain) * np.log1p(np.abs(plain)))
    if isinstance(low, int) and isinstance(high, int) and values.dtype == np.int64 and high - low < _WHOLE:
        offset = (np.clip(values, low, high) - low).astype(np.float64)  # of whole numbers: exact, before any rounding
    else:
        offset = values.astype(np.float64) - low
    return np.asarray(np.clip(offset / (float(high - low) or 1.0), 0.0, 1.0))
