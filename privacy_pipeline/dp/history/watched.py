"""Whether weights are still those that a step left: one fingerprint of all of them, computed in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


class Watched:
    """Fingerprints of the variables of a model, 64 bits each (FarmHash).

    That is not a cryptographic hash: it finds code that sets weights, not code that tries to hide it.

    Args:
        variables: of the model; those of strings are left out.
    """

    def __init__(self, variables: Sequence[Any]) -> None:
        self._variables = [one for one in variables if one.dtype != tf.string]
        self._prints = tf.function(self._each, autograph=False)

    def fingerprint(self) -> bytes:
        """Return the fingerprints of the values as they are now."""
        found: bytes = self._prints().numpy().tobytes()
        return found

    def _each(self) -> Any:
        values = [tf.bitcast(_plain(one), tf.uint8) for one in self._variables]
        rows = [tf.raw_ops.Fingerprint(data=tf.reshape(one, [1, -1]), method="farmhash64") for one in values]
        return tf.concat(rows, 0) if rows else tf.zeros([0, 8], tf.uint8)


def _plain(variable: Any) -> Any:
    """Return a variable's value in a type that has bits to cast."""
    value = tf.convert_to_tensor(variable)
    return tf.cast(value, tf.uint8) if value.dtype == tf.bool else value
