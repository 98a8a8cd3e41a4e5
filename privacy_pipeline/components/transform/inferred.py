"""Preprocessing for an inferred schema: analyzers read ranges and vocabularies off the data. Plain runs only."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from privacy_pipeline.data.features import LABEL_FEATURE, UNIT_KEY_FEATURE

_TOP_VALUES = 100


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, str]) -> dict[str, Any]:
    """One vector `features` (float32, [batch, d]), the label, and the unit's key where there is one.

    Strings become one-hot over their most frequent values, numbers are scaled to [0, 1] by the observed range.

    Args:
        inputs: raw columns, dense or sparse, any scalar dtype.
        custom_config: `label`, `positive_class` and `unit_key` of the config.
    """
    label, key = custom_config["label"], custom_config["unit_key"]
    parts = [
        _one_hot(_dense(column, ""), name) if column.dtype == tf.string else _scaled(_dense(column, 0))
        for name, column in sorted(inputs.items())
        if name not in (label, key)
    ]
    outputs = {"features": tf.concat(parts, axis=1)}
    if label in inputs:
        found = (
            tf.as_string(_dense(inputs[label], "")) if inputs[label].dtype != tf.string else _dense(inputs[label], "")
        )
        outputs[LABEL_FEATURE] = tf.cast(tf.equal(found, custom_config["positive_class"]), tf.float32)
    if key:
        outputs[UNIT_KEY_FEATURE] = _dense(inputs[key], "" if inputs[key].dtype == tf.string else 0)
    return outputs


def _dense(column: Any, default: str | int) -> Any:
    if isinstance(column, tf.sparse.SparseTensor):
        shape = [column.dense_shape[0], 1]
        column = tf.sparse.to_dense(tf.sparse.SparseTensor(column.indices, column.values, shape), default)
    return tf.reshape(column, [-1])


def _one_hot(column: Any, name: str) -> Any:
    index = tft.compute_and_apply_vocabulary(column, top_k=_TOP_VALUES, num_oov_buckets=1, vocab_filename=name)
    return tf.one_hot(index, _TOP_VALUES + 1, dtype=tf.float32)


def _scaled(column: Any) -> Any:
    return tf.expand_dims(tft.scale_to_0_1(tf.cast(column, tf.float32)), 1)
