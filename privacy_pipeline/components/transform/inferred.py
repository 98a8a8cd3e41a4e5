"""Preprocessing for an inferred schema: analyzers read ranges and vocabularies off the data. Plain runs only."""

from __future__ import annotations

from typing import Any, Literal

import tensorflow as tf
import tensorflow_transform as tft

from privacy_pipeline.components.transform.preprocessing import is_missing, label_of, univalent
from privacy_pipeline.data.schema.encoded import FEATURES
from privacy_pipeline.data.schema.features import LABEL_FEATURE, UNIT_KEY_FEATURE, Column, FeaturePlan

_TOP_VALUES = 100


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, str]) -> dict[str, Any]:
    """Return one vector `features` (float32, [batch, d]), the label, and the unit's key where there is one.

    Strings become one-hot over their most frequent values, numbers are scaled to [0, 1] by the observed range.

    Args:
        inputs: raw columns, dense or sparse, any scalar dtype.
        custom_config: `label`, `positive_class` and `unit_key` of the config.

    Returns:
        The same features, shapes and dtypes as `preprocessing.preprocessing_fn`.
    """
    plan = observed_plan(
        {name: column.dtype for name, column in inputs.items()},
        label=custom_config["label"],
        positive_class=custom_config["positive_class"],
        unit_key=custom_config["unit_key"] or None,
    )
    columns = {name: univalent(column) for name, column in inputs.items()}
    parts = [
        _one_hot(columns[c.name], c.name) if c.kind == "categorical" else _scaled(columns[c.name]) for c in plan.columns
    ]
    outputs = {FEATURES: tf.concat(parts, axis=1)}
    if plan.label in inputs:
        outputs[LABEL_FEATURE] = tf.expand_dims(label_of(plan, inputs[plan.label]), 1)
    if plan.unit_key is not None:
        outputs[UNIT_KEY_FEATURE] = tf.expand_dims(columns[plan.unit_key], 1)
    return outputs


def observed_plan(dtypes: dict[str, tf.DType], *, label: str, positive_class: str, unit_key: str | None) -> FeaturePlan:
    """Return a feature plan without public knowledge: names and types of the columns as they were found.

    Args:
        dtypes: type of each raw column.
        label: the label's column.
        positive_class: its positive value.
        unit_key: the column that names the privacy unit.
    """
    columns = [
        Column(name=name, kind="categorical" if dtype == tf.string else "numeric", dtype=_kind(dtype))
        for name, dtype in sorted(dtypes.items())
        if name not in (label, unit_key)
    ]
    return FeaturePlan(
        columns=tuple(columns),
        label=label,
        label_domain=(),
        label_dtype=_kind(dtypes[label]) if label in dtypes else "bytes",
        positive_class=positive_class,
        unit_key=unit_key,
    )


def _kind(dtype: tf.DType) -> Literal["int", "float", "bytes"]:
    if dtype == tf.string:
        return "bytes"
    return "int" if dtype.is_integer else "float"


def _one_hot(column: Any, name: str) -> Any:
    index = tft.compute_and_apply_vocabulary(column, top_k=_TOP_VALUES, num_oov_buckets=1, vocab_filename=name)
    return tf.one_hot(index, _TOP_VALUES + 1, dtype=tf.float32)


def _scaled(column: Any) -> Any:
    present = tf.where(is_missing(column), tf.zeros_like(column), column)
    if not column.dtype.is_integer:
        return tf.expand_dims(tft.scale_to_0_1(tf.cast(present, tf.float32)), 1)
    # Subtracted as integers, since float32 does not have the digits in which dates, times and ids differ.
    low, high = tft.min(present), tft.max(present)
    above = tf.cast(tf.minimum(tf.maximum(present, low), high) - low, tf.float64)
    span = tf.cast(high - low, tf.float64)
    return tf.expand_dims(tf.cast(above / tf.maximum(span, 1.0), tf.float32), 1)
