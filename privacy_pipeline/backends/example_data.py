"""Transformed rows as an ExampleStore: in memory where they fit, else memory-mapped in the attempt's folder."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from privacy_pipeline.backends import keras_io
from privacy_pipeline.data.schema.features import SILO_FEATURE, UNIT_KEY_FEATURE
from privacy_pipeline.dp.sampling.store import ExampleStore
from privacy_pipeline.errors import BadInputError

MEMORY_LIMIT = 2 * 2**30

Chunk = tuple[dict[str, NDArray[Any]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """A training split.

    Attributes:
        store: inputs by name, each [rows, ...], and labels, float32, [rows, 1].
        owners: number of the privacy unit that owns each row, int64, [rows]; None where a row is its own unit.
        silos: name of each row's silo, texts, [rows]; None where it was not asked for.
    """

    store: ExampleStore
    owners: NDArray[np.int64] | None
    silos: NDArray[np.str_] | None = None

    @property
    def units(self) -> int:
        """Privacy units in the split; secret under add-or-remove-one."""
        return len(self.store) if self.owners is None else int(self.owners.max()) + 1


def read_examples(
    patterns: Sequence[str],
    *,
    transform_graph: Path,
    names: Sequence[str],
    keyed: bool,
    folder: Path,
    classes: int,
    silos: bool = False,
    memory_limit: int = MEMORY_LIMIT,
) -> Examples:
    """Read a split of transformed examples.

    Args:
        patterns: gzipped TFRecord files, or globs of such.
        transform_graph: the tf.Transform output that made them.
        names: features to keep.
        keyed: read who owns each row. The key becomes a number at once, and never an input of the model.
        folder: where the arrays go that do not fit into memory.
        classes: labels are whole numbers from 0 to below it.
        silos: read the name of each row's silo; no input of the model either.
        memory_limit: bytes of arrays that may stay in memory.

    Raises:
        BadInputError: no row, a row without a key or a silo, no label, or a label outside the public domain.
    """
    owners = _Keys("dataset.privacy_unit: the key", "belong to no unit") if keyed else None
    homes = _Keys("training.federated.silo_privacy.column: the silo", "belong to no silo") if silos else None
    chunks = _chunks(patterns, transform_graph, names, owners, homes, classes)
    held: list[Chunk] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += chunk[1].nbytes + sum(array.nbytes for array in chunk[0].values())
        if size > memory_limit:
            store = ExampleStore.write(folder, itertools.chain(_drained(held), chunks), examples=count(patterns))
            return _found(store, owners, homes)
    if not held:
        raise keras_io.no_rows()
    inputs = {name: np.concatenate([x[name] for x, _ in held]) for name in names}
    store = ExampleStore.from_arrays(inputs, np.concatenate([y for _, y in held]))
    return _found(store, owners, homes)


@dataclass(frozen=True)
class Owners:
    """Who owns the rows of a split that was read through, and in which silo they are; None where nobody asked.

    Attributes:
        rows: how many there are.
        owners: number of the owner of each row, int64 [rows].
        silos: name of the silo of each row, [rows].
    """

    rows: int
    owners: NDArray[np.int64] | None
    silos: NDArray[np.str_] | None


def read_through(
    patterns: Sequence[str], *, transform_graph: Path, keyed: bool, classes: int, silos: bool = False
) -> Owners:
    """Read a split as `read_examples` does, and keep none of its features.

    Args:
        patterns, transform_graph, keyed, classes, silos: as in `read_examples`.

    Raises:
        BadInputError: as `read_examples`.
    """
    owners = _Keys("dataset.privacy_unit: the key", "belong to no unit") if keyed else None
    homes = _Keys("training.federated.silo_privacy.column: the silo", "belong to no silo") if silos else None
    rows = sum(len(labels) for _, labels in _chunks(patterns, transform_graph, (), owners, homes, classes))
    if not rows:
        raise keras_io.no_rows()
    return Owners(
        rows=rows,
        owners=owners.numbers() if owners else None,
        silos=homes.names()[homes.numbers()] if homes else None,
    )


def _found(store: ExampleStore, owners: _Keys | None, homes: _Keys | None) -> Examples:
    return Examples(
        store=store,
        owners=owners.numbers() if owners else None,
        silos=homes.names()[homes.numbers()] if homes else None,
    )


def count(patterns: Sequence[str]) -> int:
    """Return the number of rows of a split."""
    records = tf.data.TFRecordDataset(keras_io.files_of(patterns), compression_type="GZIP")
    return int(records.reduce(np.int64(0), lambda done, _: done + 1).numpy())


class _Keys:
    """Keys of rows as numbers, in the order of their first row."""

    def __init__(self, what: str, otherwise: str) -> None:
        self._what, self._otherwise = what, otherwise
        self._known: dict[Any, int] = {}
        self._parts: list[NDArray[np.int64]] = []

    def add(self, keys: NDArray[Any]) -> None:
        values = keys.ravel()
        missing = values == b"" if values.dtype.kind in "OS" else values == np.iinfo(np.int64).min
        if np.any(missing):
            raise BadInputError(
                f"{self._what} is empty in {int(np.sum(missing))} row(s) of the training split, which "
                f"{self._otherwise}",
                fix="give each row a key, or remove those rows",
            )
        numbers = [self._known.setdefault(key, len(self._known)) for key in keys.ravel().tolist()]
        self._parts.append(np.array(numbers, np.int64))

    def numbers(self) -> NDArray[np.int64]:
        return np.concatenate(self._parts)

    def names(self) -> NDArray[np.str_]:
        texts = [key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else str(key) for key in self._known]
        return np.asarray(texts, np.str_)


def _chunks(
    patterns: Sequence[str],
    transform_graph: Path,
    names: Sequence[str],
    owners: _Keys | None,
    homes: _Keys | None,
    classes: int,
) -> Iterator[Chunk]:
    for part in keras_io.parsed(
        patterns, transform_graph=transform_graph, with_key=owners is not None, with_silo=homes is not None
    ):
        if owners is not None:
            owners.add(part[UNIT_KEY_FEATURE])
        if homes is not None:
            homes.add(part[SILO_FEATURE])
        yield {name: part[name] for name in names}, keras_io.labels_of(part, classes=classes)


def _drained(held: list[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks in order, and drop each once it was taken."""
    held.reverse()
    while held:
        yield held.pop()
