"""Keras' losses that give each row a value of that row alone, known by type or function."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

_Losses = tf.keras.losses
# Not `Hinge` and `SquaredHinge`: whether they take labels for 0 and 1 or for -1 and 1 depends on all rows of a batch.
_KINDS = (
    *("BinaryCrossentropy", "BinaryFocalCrossentropy", "CategoricalCrossentropy", "CategoricalFocalCrossentropy"),
    *("CategoricalHinge", "Huber", "KLDivergence", "LogCosh", "MeanAbsoluteError", "MeanAbsolutePercentageError"),
    *("MeanSquaredError", "MeanSquaredLogarithmicError", "Poisson", "SparseCategoricalCrossentropy"),
)
_FUNCTIONS = (
    *("binary_crossentropy", "binary_focal_crossentropy", "categorical_crossentropy", "categorical_focal_crossentropy"),
    *("categorical_hinge", "huber", "kl_divergence", "log_cosh", "mean_absolute_error"),
    *("mean_absolute_percentage_error", "mean_squared_error", "mean_squared_logarithmic_error", "poisson"),
    "sparse_categorical_crossentropy",
)
_LAST_AXIS = (-1, None)


def row_wise(loss: Any) -> bool:
    """Whether a loss, before any reduction, is known to mix no rows.

    Args:
        loss: object or function, as `tf.keras.losses.get` gives it. A user's own is not known, nor is a subclass.
    """
    if isinstance(loss, _Losses.Loss):
        known = any(type(loss) is getattr(_Losses, kind) for kind in _KINDS)
        return known and getattr(loss, "_fn_kwargs", {}).get("axis") in _LAST_AXIS
    return any(loss is getattr(_Losses, name) for name in _FUNCTIONS)
