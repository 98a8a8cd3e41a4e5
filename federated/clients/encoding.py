"""Raw columns to one vector of floats, from public facts alone: domains and ranges of the curated schema."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.data.features import Column, FeaturePlan
from privacy_pipeline.errors import BadInputError

_EXACT = 2.0**53  # the first whole number whose successor float64 does not have


def encode(plan: FeaturePlan, table: Any, *, name: str) -> NDArray[np.float32]:
    """Encodes the input columns of a table.

    A numeric column becomes its place in the public range, 0 to 1, clipped; a categorical one a one-hot code, all zero
    outside its domain. An optional column has one more number, which is 1 where the value is missing.

    Args:
        plan: columns with their public domains and ranges.
        table: a pandas data frame; a missing value is None, NaN or "".
        name: of the table, for messages.

    Returns:
        float32, [rows, width].

    Raises:
        BadInputError: a column is missing, or a value is no number where there should be one.
    """
    return np.concatenate([_column(column, table, name) for column in plan.columns], axis=1, dtype=np.float32)


def numbers(values: Any, *, name: str, column: str) -> NDArray[np.float64]:
    """A column as float64, NaN where a value is missing.

    Args:
        values: pandas series.
        name, column: of table and column, for messages.

    Raises:
        BadInputError: a value is neither a number nor missing; names the row, counted from 1 without the header.
    """
    import pandas as pd

    absent = missing(values)
    found = pd.to_numeric(values.where(~absent), errors="coerce").to_numpy(np.float64)
    wrong = np.flatnonzero(np.isnan(found) & ~absent)
    if wrong.size:
        row = int(wrong[0])
        raise BadInputError(f"{name}: column '{column}', row {row + 1}: {values.iloc[row]!r} is no number")
    return np.asarray(found)


def missing(values: Any) -> NDArray[np.bool_]:
    """Where a pandas series has None, NaN or an empty text."""
    return np.asarray(values.isna() | (values.astype(str).str.strip() == ""), dtype=np.bool_)


def one_hot(texts: Sequence[str], domain: Sequence[str]) -> NDArray[np.float32]:
    """One column for each value of the domain, float32, [rows, domain]."""
    places = {value: place for place, value in enumerate(domain)}
    codes = np.array([places.get(text, -1) for text in texts])
    return np.asarray(codes[:, np.newaxis] == np.arange(len(domain)), dtype=np.float32)


def _column(column: Column, table: Any, name: str) -> NDArray[Any]:
    if column.name not in table.columns:
        raise BadInputError(f"{name}: column '{column.name}' is missing; it has: {', '.join(map(str, table.columns))}")
    values = table[column.name]
    absent = missing(values)
    if column.kind == "categorical":
        texts = list(values.astype(str))
        if column.dtype != "bytes":
            found = _numbers(values, absent, name=name, column=column)
            texts = ["" if gone else spelled(value) for value, gone in zip(found, absent, strict=True)]
        parts = [one_hot(texts, column.domain)]
    else:
        found = _numbers(values, absent, name=name, column=column)
        parts = [_scaled(found, column)[:, np.newaxis] * ~absent[:, np.newaxis]]
    return np.concatenate([*parts, absent[:, np.newaxis]] if column.optional else parts, axis=1)


def spelled(value: float) -> str:
    """A number as the public domain spells it, as in a pipeline: 3 and 3.0 are both "3", a million is "1000000"."""
    if math.isfinite(value) and value == int(value):
        return str(int(value))
    return str(np.float32(value))


def _numbers(values: Any, absent: NDArray[np.bool_], *, name: str, column: Column) -> NDArray[Any]:
    """A column as numbers, 0 where a value is missing: float64, or whole numbers where float64 lacks their digits."""
    found = np.nan_to_num(numbers(values, name=name, column=column.name))
    if column.dtype != "int" or not found.size or np.abs(found).max() < _EXACT:
        return found
    exact = [0 if gone else _whole(value) for value, gone in zip(values, absent, strict=True)]
    return np.array(exact, dtype=object)


def _whole(value: Any) -> int:
    try:
        return int(value)
    except ValueError:
        return int(float(value))


def _scaled(values: NDArray[Any], column: Column) -> NDArray[np.float64]:
    if column.minimum is None or column.maximum is None:
        plain = values.astype(np.float64)
        return np.asarray(np.sign(plain) * np.log1p(np.abs(plain)))
    offset = (values - column.minimum).astype(np.float64)  # of whole numbers: exact, before any rounding
    return np.asarray(np.clip(offset / (float(column.maximum - column.minimum) or 1.0), 0.0, 1.0))
