"""No branch is left out on the word of an arithmetic that is not TensorFlow's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.dp.rowwise.test_rowwise import F, count, proof_of, traced

CONDITIONS: dict[str, Callable[[Any], Any]] = {
    "NaN is not at least 0": lambda x: tf.constant(np.nan, tf.float32) >= 0.0,
    "1/0 is large": lambda x: tf.constant(1.0) / tf.constant(0.0) > 5.0,
    "a float sum": lambda x: tf.reduce_sum(tf.constant([1e8, 1.0, -1e8])) > 0.5,
    "a float product": lambda x: tf.reduce_prod(tf.constant([1e30, 1e30, 1e-30])) > 1e35,
    "a denormal number": lambda x: tf.constant(1e-40) * tf.constant(1.0) > 0.0,
    "the maximum with NaN": lambda x: tf.maximum(tf.constant(1.0), tf.constant(np.nan, tf.float32)) > 0.0,
    "a large float as an integer": lambda x: tf.cast(tf.constant(1e20), tf.int32) > 0,
    "an integer that wraps": lambda x: tf.constant(2**30) * tf.constant(2) > 0,
    "a short integer": lambda x: tf.cast(tf.cast(tf.constant(300), tf.uint8), tf.int32) > 100,
    "a number of rows that wraps": lambda x: count(x) * 2**28 > 0,
    "a long number of rows made short": lambda x: tf.cast(tf.shape(x, tf.int64)[0] * 2**28, tf.int32) > 0,
    "a number of values that wraps": lambda x: tf.size(x) * 2**28 > 0,
}


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("kind", CONDITIONS)
def test_a_branch_that_mixes_is_seen_whatever_the_condition(kind: str, side: int) -> None:
    def run(x: Any) -> Any:
        branches = [lambda: x * 2.0, lambda: x - x[:1]]
        return tf.cond(CONDITIONS[kind](x), branches[side], branches[1 - side])

    assert not proof_of(traced(run, [F(4)]), [F(4)]).proven


@pytest.mark.parametrize("kind", [kind for kind in CONDITIONS if "rows" not in kind and "values" not in kind])
def test_branches_that_keep_rows_apart_are_proven(kind: str) -> None:
    concrete = traced(lambda x: tf.cond(CONDITIONS[kind](x), lambda: x * 2.0, lambda: x + 1.0), [F(4)])
    assert proof_of(concrete, [F(4)]).proven


def test_a_whole_number_chooses_its_branch() -> None:
    """As where Keras or TensorFlow ask for a rank, or whether there are rows."""
    concrete = traced(lambda x: tf.cond(count(x) * 4 > 0, lambda: x * 2.0, lambda: x - x[:1]), [F(4)])
    assert proof_of(concrete, [F(4)]).proven
