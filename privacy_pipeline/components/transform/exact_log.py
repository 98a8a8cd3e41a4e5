"""log(1 + x) from operations that round alike in every place of a batch.

`tf.math.log1p` is an approximation with two forms, one for the vectorised part of a batch and one for its tail. They
differ in the last bit, so a row's feature would depend on its place and on the number of rows beside it, and a bucket's
edge makes a whole one of that bit. Here are additions, products, quotients and moves of bits alone, each an op of its
own. IEEE 754 fixes the result of each, whatever the kernel, so the value is a function of the row.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

# log((1 + s) / (1 - s)) = 2 s (1 + s^2/3 + s^4/5 + ...). With |s| below 0.172 what is left out is below 2e-15.
_SERIES = tuple(2.0 / (2 * term + 1) for term in range(8))
_MANTISSA = 52  # bits of float64's mantissa
_ROOT_OF_HALF = 0x3FE6A09E667F3BCD  # bits of the root of 1/2, the least mantissa that is taken


def log1p(values: Any) -> Any:
    """Compute log(1 + x), to a bit of float32; infinity counts as the largest float32.

    Args:
        values: float32, any shape, none below 0.

    Returns:
        float32, of the same shape; NaN where it was.
    """
    given = tf.cast(tf.minimum(values, values.dtype.max), tf.float64)
    shifted = given + 1.0
    bits = tf.bitcast(shifted, tf.int64)
    # shifted = 2^exponent * mantissa, with the mantissa between the roots of 1/2 and of 2
    exponent = tf.bitwise.right_shift(bits - _ROOT_OF_HALF, tf.constant(_MANTISSA, tf.int64))
    mantissa = tf.bitcast(bits - tf.bitwise.left_shift(exponent, tf.constant(_MANTISSA, tf.int64)), tf.float64)
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    square = ratio * ratio
    series = square * _SERIES[-1] + _SERIES[-2]
    for factor in reversed(_SERIES[:-2]):
        series = series * square + factor
    lost = (given - (shifted - 1.0)) / shifted  # what adding 1 rounded away, of small x
    return tf.cast(tf.cast(exponent, tf.float64) * math.log(2.0) + ratio * series + lost, tf.float32)
