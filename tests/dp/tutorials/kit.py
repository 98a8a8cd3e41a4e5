"""What a tutorial trains, and what becomes of it here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

ROWS = 12
FAST, SLOWER = "trains", "trains, slower"


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A small version of a tutorial's model.

    Attributes:
        source: where it is taught.
        name: what it is.
        make: the model, built; compiled where the tutorial leaves the loss to Keras.
        loss: of the model.
        data: (x, y) of `ROWS` rows.
        callbacks: of the tutorial, for a folder.
        more: other arguments of `make_private`.
        outcome: `FAST`, `SLOWER` (a layer has no clipping rule, or examples run one by one), or words of
            the refusal.
        why: what stands in the guide beside the outcome.
    """

    source: str
    name: str
    make: Callable[[], Any]
    loss: Any
    data: Callable[[], tuple[Any, Any]]
    callbacks: Callable[[str], Sequence[Any]] = lambda folder: ()
    more: Mapping[str, Any] = field(default_factory=dict)
    outcome: str = FAST
    why: str = ""


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def floats(*shape: int) -> Any:
    return generator().normal(size=(ROWS, *shape)).astype(np.float32)


def whole(limit: int, *shape: int) -> Any:
    return generator().integers(0, limit, (ROWS, *shape)).astype(np.int64)


def classified(limit: int, *shape: int) -> Callable[[], tuple[Any, Any]]:
    """Rows of numbers of a shape with a class each."""
    return lambda: (floats(*shape), whole(limit))


def worded(words: int, length: int, limit: int) -> Callable[[], tuple[Any, Any]]:
    """Rows of ids with a class each."""
    return lambda: (whole(words, length), whole(limit))


def binary(data: Callable[[], tuple[Any, Any]]) -> Callable[[], tuple[Any, Any]]:
    """The same with labels 0.0 and 1.0, [rows, 1]."""

    def made() -> tuple[Any, Any]:
        x, _ = data()
        return x, whole(2, 1).astype(np.float32)

    return made


SPARSE = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
BINARY = tf.keras.losses.BinaryCrossentropy(from_logits=True)
