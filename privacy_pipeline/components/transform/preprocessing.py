"""The framework's `preprocessing_fn`: raw columns to one float vector, from public facts alone.

No tf.Transform analyzer is used. Every bound, domain and bucket edge comes from the feature plan, that is from the
curated public schema, so that the transform graph holds nothing that was computed from the data.

A row's features are a function of that row, to the last bit, whatever rows share its batch: every op here copies,
compares, or rounds by IEEE 754; the logarithm, which kernels approximate, is `exact_log`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from privacy_pipeline.components.transform.exact_log import log1p
from privacy_pipeline.data.schema.encoded import BUCKETS, FEATURES, width_of
from privacy_pipeline.data.schema.features import LABEL_FEATURE, SILO_FEATURE, UNIT_KEY_FEATURE, Column, FeaturePlan

NO_LABEL = -1  # a row without label, or with one outside the public domain

_MISSING_INT = -(2**63)
_BEYOND_INT64 = 2**63
_MISSING_BYTES = b""


def preprocessing_fn(inputs: Mapping[str, Any], custom_config: Mapping[str, Any]) -> dict[str, Any]:
    """Transform a batch of raw columns.

    Args:
        inputs: raw columns by name, each a dense tensor of shape [batch] or [batch, 1] or a SparseTensor with at most
            one value a row; int64, float32 or string.
        custom_config: holds the feature plan as JSON under `feature_plan`.

    Returns:
        `features` (float32, [batch, width]); `label` ([batch, 1], see `label_of`) where the label is among the inputs;
        `privacy_unit_key` (int64 or string, [batch, 1]) where the plan has one and it is among the inputs, and so
        `silo_name`.
    """
    plan = FeaturePlan.model_validate_json(custom_config["feature_plan"])
    outputs = {FEATURES: tf.concat([encode(column, inputs[column.name]) for column in plan.columns], axis=1)}
    if plan.label in inputs:
        outputs[LABEL_FEATURE] = tf.expand_dims(label_of(plan, inputs[plan.label]), 1)
    if plan.unit_key is not None and plan.unit_key in inputs:
        outputs[UNIT_KEY_FEATURE] = tf.expand_dims(univalent(inputs[plan.unit_key]), 1)
    if plan.silo is not None and plan.silo in inputs:
        outputs[SILO_FEATURE] = tf.expand_dims(univalent(inputs[plan.silo]), 1)
    return outputs


def encode(column: Column, raw: Any) -> Any:
    """Return one column as floats, all zero where the value is missing or outside the public domain.

    Args:
        column: its entry in the plan.
        raw: its values, as in `preprocessing_fn`.

    Returns:
        float32, [batch, width_of(column)].
    """
    values = univalent(raw)
    parts = _categorical(column, values) if column.kind == "categorical" else _numeric(column, values)
    encoded = tf.concat(parts, axis=1)
    return tf.ensure_shape(encoded, [None, width_of(column)])


def univalent(raw: Any) -> Any:
    """Return values as a dense vector, shape [batch]; a missing one is "", the smallest int64 or NaN."""
    if not isinstance(raw, tf.SparseTensor):
        return tf.reshape(raw, [-1])
    default: Any = _MISSING_BYTES
    if raw.dtype.is_floating:
        default = math.nan
    elif raw.dtype.is_integer:
        default = _MISSING_INT
    # The width of a sparse batch is that of its longest row, so it is 0 where every value is missing.
    one_wide = tf.SparseTensor(raw.indices, raw.values, [raw.dense_shape[0], 1])
    return tf.squeeze(tf.sparse.to_dense(one_wide, default_value=default), axis=1)


def _categorical(column: Column, values: Any) -> list[Any]:
    missing = is_missing(values)
    text = values if values.dtype == tf.string else _as_text(values)
    # A comparison with the whole domain is the one-hot code itself: no table, hence no asset in the graph.
    one_hot = tf.cast(tf.equal(text[:, tf.newaxis], tf.constant([column.domain])), tf.float32)
    return [one_hot, _flag(missing)] if column.optional else [one_hot]


def _numeric(column: Column, values: Any) -> list[Any]:
    missing = is_missing(values)
    present = _flag(~missing)
    if column.minimum is None or column.maximum is None:
        # Without a public range: a scale that any magnitude fits on.
        numbers = tf.where(missing, tf.zeros_like(values, tf.float32), tf.cast(values, tf.float32))
        parts = [present * (tf.sign(numbers) * log1p(tf.abs(numbers)))[:, tf.newaxis]]
        return [*parts, 1 - present] if column.optional else parts
    span = float(column.maximum - column.minimum) or 1.0
    offset = tf.where(missing, tf.zeros_like(values, tf.float64), _offset(values, column.minimum, column.maximum))
    linear = offset / span
    logarithmic = log1p(tf.cast(offset, tf.float32)) / math.log1p(span)  # spreads the low end of heavy tails
    parts = []
    for scaled in (linear, logarithmic):
        bucket = tf.minimum(tf.cast(scaled * BUCKETS, tf.int32), BUCKETS - 1)
        parts += [present * tf.cast(scaled, tf.float32)[:, tf.newaxis], present * tf.one_hot(bucket, BUCKETS)]
    return [*parts, 1 - present] if column.optional else parts


def _offset(values: Any, minimum: float, maximum: float) -> Any:
    """Return how far each value lies above the minimum, within the range: float64, [batch].

    Integers are subtracted as integers: seconds since 1970, dates and ids differ in digits that float32 does not have.
    """
    whole = isinstance(minimum, int) and isinstance(maximum, int) and maximum - minimum < _BEYOND_INT64
    if values.dtype.is_integer and whole:
        inside = tf.minimum(tf.maximum(tf.cast(values, tf.int64), minimum), maximum)
        return tf.cast(inside - minimum, tf.float64)
    numbers = tf.cast(values, tf.float64)
    return tf.clip_by_value(numbers - minimum, tf.constant(0.0, tf.float64), float(maximum - minimum))


def label_of(plan: FeaturePlan, raw: Any) -> Any:
    """Return the place of each label in the domain; with a positive class 1 for it and 0 for any other label of the
    domain; -1 for a label that is missing or outside the domain: int64, [batch].

    Of a number: its place in the public range, from 0 to 1; NaN for one that is missing or outside: float32, [batch].
    """
    values = univalent(raw)
    if plan.label_range is not None:
        return _scaled(values, *plan.label_range)
    known = ~is_missing(values)
    if plan.positive_class is None:
        return _place(plan, values)
    if plan.label_dtype == "bytes":
        positive = tf.equal(values, plan.positive_class)
        domain = tf.constant([list(plan.label_domain)], tf.string)
    elif values.dtype.is_integer:  # beyond 2^53 neighbours share a float64
        values = tf.cast(values, tf.int64)
        positive = tf.equal(values, tf.constant(int(plan.positive_class), tf.int64))
        domain = tf.constant([[int(value) for value in plan.label_domain]], tf.int64)
    else:
        values = tf.cast(values, tf.float64)
        positive = tf.equal(values, float(plan.positive_class))
        domain = tf.constant([[float(value) for value in plan.label_domain]], tf.float64)
    if plan.label_domain:
        known = tf.reduce_any(tf.equal(values[:, tf.newaxis], domain), axis=1)
    negative = tf.where(known, tf.constant(0, tf.int64), tf.constant(NO_LABEL, tf.int64))
    return tf.where(positive, tf.constant(1, tf.int64), negative)


def _scaled(values: Any, minimum: float, maximum: float) -> Any:
    share = tf.cast(_offset(values, minimum, maximum) / float(maximum - minimum), tf.float32)
    inside = _at_least(values, minimum) & _at_least(-values, -maximum)
    return tf.where(inside & ~is_missing(values), share, tf.constant(math.nan, tf.float32))


def _at_least(values: Any, bound: float) -> Any:
    """Return where values are not below a bound; as integers where both are, else in the values' own precision."""
    if values.dtype.is_integer and isinstance(bound, int):
        return tf.cast(values, tf.int64) >= bound
    # An end of the range that a float32 rounds past itself is still an end.
    exact = tf.float64 if values.dtype.is_integer else values.dtype
    return tf.cast(values, exact) >= tf.constant(bound, exact)


def _place(plan: FeaturePlan, values: Any) -> Any:
    domain: Any = [list(plan.label_domain)]
    if values.dtype == tf.string:
        found = tf.equal(values[:, tf.newaxis], tf.constant(domain, tf.string))
    else:
        whole = tf.constant([[int(value) for value in plan.label_domain]], tf.int64)
        found = tf.equal(tf.cast(values, tf.int64)[:, tf.newaxis], whole)
    places = tf.argmax(tf.cast(found, tf.int64), axis=1)
    return tf.where(tf.reduce_any(found, axis=1), places, tf.constant(NO_LABEL, tf.int64))


def is_missing(values: Any) -> Any:
    """Return where a dense column, as `univalent` gives it, has no value: bool, shape [batch]."""
    if values.dtype == tf.string:
        return tf.equal(values, _MISSING_BYTES)
    return tf.math.is_nan(values) if values.dtype.is_floating else tf.equal(values, _MISSING_INT)


def _as_text(values: Any) -> Any:
    """Return numbers as the public domain spells them: 3 and 3.0 are both "3"."""
    if values.dtype.is_integer:
        return tf.strings.as_string(values)
    whole = tf.equal(values, tf.round(values))
    rounded = tf.cast(tf.where(whole, values, tf.zeros_like(values)), tf.int64)
    return tf.where(whole, tf.strings.as_string(rounded), tf.strings.as_string(values, shortest=True))


def _flag(condition: Any) -> Any:
    return tf.cast(condition, tf.float32)[:, tf.newaxis]
