"""Bits of 64 elements in one word, a plane, so that no bit of a word is wasted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

WORD = 64
_SWAPS = tuple((1 << step, sum(1 << bit for bit in range(WORD) if not bit >> step & 1)) for step in range(5, -1, -1))


def planes(x: Any) -> Any:
    """Return [64, columns] elements as [64, columns] bit planes: bit r of word c of plane b is bit b of element [r, c].

    The transposition is that of Warren, "Hacker's Delight", section 7-3.
    """
    columns = x.shape[1]
    for size, mask in _SWAPS:
        split = tf.reshape(x, [WORD // (2 * size), 2, size, columns])
        low, high = tf.unstack(split, axis=1)
        shift = tf.constant(size, tf.int64)
        swapped = (tf.bitwise.right_shift(low, shift) ^ high) & tf.constant(mask, tf.int64)
        low, high = low ^ tf.bitwise.left_shift(swapped, shift), high ^ swapped
        x = tf.reshape(tf.stack([low, high], axis=1), [WORD, columns])
    return x


def bits_of(plane: Any) -> Any:
    """Return one plane, [1, columns], as 0 or 1 for each element, [64, columns]."""
    return tf.bitwise.right_shift(plane, np.arange(WORD, dtype=np.int64)[:, None]) & tf.constant(1, tf.int64)


def grid(part: Any, columns: int) -> Any:
    """Return a tensor as [64, columns]; zeros, which are public, fill the last words."""
    if part is None:
        return None
    flat = tf.reshape(part, [-1])
    missing = WORD * columns - flat.shape[0]
    return tf.reshape(tf.pad(flat, [(0, missing)]) if missing else flat, [WORD, columns])


def ungrid(filled: Any, shape: list[int]) -> Any:
    """Return what `grid` gave, or was computed from it, in its own shape again."""
    return tf.reshape(tf.reshape(filled, [-1])[: math.prod(shape)], shape)
