"""Whether a layer's state comes from constants in its code, or from data: vocabularies, bins, statistics, tables.

`adapt` keeps exactly what it reads, so that a vocabulary reveals which words the rows hold. Constants given to the
constructor stay in the layer beside what it works with; both are compared. `set_vocabulary` leaves no trace of where
the words come from and is refused with `adapt`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

_Layers = tf.keras.layers
_LEARNT = "was adapted to data, or filled after it was made, and may hold values of private rows exactly"


def adapted(layer: Any) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a layer's state, and what to use instead; nothing if its state comes from constants.

    Args:
        layer: any Keras layer.
    """
    kind = type(layer).__name__
    if isinstance(layer, _Layers.Normalization):
        if layer.input_mean is None or layer.is_adapted:
            yield (
                "Normalization takes its mean and variance from data by adapt(), exactly",
                "give it public constants: Normalization(mean=..., variance=...)",
            )
    elif isinstance(layer, (_Layers.IntegerLookup, _Layers.StringLookup)):
        if not _public_vocabulary(layer):
            yield f"its vocabulary {_LEARNT}", f"give public words to the constructor: {kind}(vocabulary=...)"
    elif isinstance(layer, _Layers.TextVectorization):
        if layer.is_adapted or not _public_vocabulary(layer._lookup_layer):
            yield f"its vocabulary {_LEARNT}", f"give public words to the constructor: {kind}(vocabulary=...)"
    elif isinstance(layer, _Layers.Discretization):
        if layer.is_adapted or not _public_bins(layer):
            yield f"its bins {_LEARNT}", f"give public bounds to the constructor: {kind}(bin_boundaries=[...])"
    elif isinstance(layer, _Layers.experimental.preprocessing.PreprocessingLayer) and (
        layer.is_adapted or layer.non_trainable_weights
    ):
        yield f"its state {_LEARNT}", "give it public constants, in a layer that has no state"


def holds_tables(layer: Any) -> bool:
    """Return whether a layer's own attributes hold a table that can be filled at any time.

    Args:
        layer: any Keras layer. Lookup layers without a vocabulary hold one; `adapted` reports them.
    """
    kinds = (tf.lookup.experimental.MutableHashTable, tf.lookup.experimental.DenseHashTable)
    if isinstance(layer, (_Layers.IntegerLookup, _Layers.StringLookup)):
        return False
    return any(isinstance(value, kinds) for held in vars(layer).values() for value in _flat(held))


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for part in value.values():
            yield from _flat(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _flat(part)
    else:
        yield value


def _public_vocabulary(layer: Any) -> bool:
    """Return whether a lookup layer works with the words, and weights, that its constructor was given."""
    if layer.is_adapted or layer.input_vocabulary is None:
        return False
    given = layer.input_vocabulary
    if isinstance(given, str):
        with tf.io.gfile.GFile(given) as file:
            given = file.read().splitlines()
    words = [_word(word) for word in np.asarray(given).tolist()]
    used = [_word(word) for word in layer.get_vocabulary()]
    start = layer._token_start_index()
    if words not in (used, used[start:]):
        return False
    return layer.input_idf_weights is None or _public_weights(layer, start)


def _public_weights(layer: Any, start: int) -> bool:
    given = np.asarray(layer.input_idf_weights, np.float32)
    used = layer.idf_weights.numpy()
    return any(np.array_equal(used[place : place + len(given)], given) for place in (0, start))


def _word(word: Any) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)


def _public_bins(layer: Any) -> bool:
    given = layer.input_bin_boundaries
    return given is not None and list(layer.bin_boundaries) == list(given)
