"""The form of what the framework's `preprocessing_fn` makes of a column: how many floats, and within what range.

It needs no TensorFlow: the trainer, the check of a config and the client of private predictions ask it too.
"""

from __future__ import annotations

from collections.abc import Sequence

from privacy_pipeline.data.schema.features import Column

FEATURES = "features"  # the model's one input: float32, [batch, width]
BUCKETS = 32  # equal-width buckets of the linear and of the logarithmic scale

_LARGEST_LOG = 89.0  # log(1 + x) of the largest float32
_ROUNDED = 1 + 2.0**-16  # two logarithms of float32 are divided


def width_of(column: Column) -> int:
    """Return how many floats a column becomes."""
    if column.kind == "categorical":
        return len(column.domain) + column.optional
    if column.minimum is None or column.maximum is None:
        return 1 + column.optional
    return 2 + 2 * BUCKETS + column.optional


def range_of(columns: Sequence[Column]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the lowest and highest value of each of the floats that these columns become, one behind the other."""
    lower: list[float] = []
    upper: list[float] = []
    for column in columns:
        width = width_of(column)
        open_ended = column.kind == "numeric" and column.is_unknown
        lower += [-_LARGEST_LOG if open_ended else 0.0, *[0.0] * (width - 1)][:width]
        upper += [_LARGEST_LOG if open_ended else _ROUNDED, *[_ROUNDED] * (width - 1)][:width]
    return tuple(lower), tuple(upper)
