"""How an adaptive clipping norm counts units near it: without a jump, so that rounding cannot move the count."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

_SLOPE = 10.0


def within(length: Any, bound: Any) -> Any:
    """1/2 for a unit within its norm, -1/2 for one beyond it, and a straight line from 5 % below to 5 % above.

    Kernels round a gradient by the shape of its batch, so a unit at the very edge would be counted on one side or on
    the other by who else is in the batch: with many such units one more would move the count by many, where 1/2 is
    accounted. On the line, a rounding of 1e-7 moves a unit's count by 1e-6. A unit still moves it by 1/2 at most
    (Andrew et al. 2021, arXiv 1905.03871, theorem 1).

    Args:
        length: L2 norms, float [units].
        bound: the clipping norm, scalar.

    Returns:
        float32 [units].
    """
    line = _SLOPE * (1.0 - length / bound)
    return tf.cast(tf.clip_by_value(line, tf.constant(-0.5, line.dtype), tf.constant(0.5, line.dtype)), tf.float32)
