"""Raw columns to one vector of floats, from public facts alone: domains and ranges of the curated schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.data.features import Column, FeaturePlan
from privacy_pipeline.errors import BadInputError


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
        texts = values.astype(str)
        if column.dtype != "bytes":
            found = numbers(values, name=name, column=column.name)
            texts = [f"{value:g}" for value in found]
        parts = [one_hot(list(texts), column.domain)]
    else:
        found = numbers(values, name=name, column=column.name)
        parts = [_scaled(np.nan_to_num(found), column)[:, np.newaxis] * ~absent[:, np.newaxis]]
    return np.concatenate([*parts, absent[:, np.newaxis]] if column.optional else parts, axis=1)


def _scaled(values: NDArray[np.float64], column: Column) -> NDArray[np.float64]:
    if column.minimum is None or column.maximum is None:
        return np.asarray(np.sign(values) * np.log1p(np.abs(values)))
    span = (column.maximum - column.minimum) or 1.0
    return np.asarray(np.clip((values - column.minimum) / span, 0.0, 1.0))
