"""Clients and their examples: rows sorted by client, one array for each feature, in memory or memory-mapped.

A client is a number from 0 to `num_clients` - 1 and a slice of rows; there is no Python object for it. A store of a
million clients therefore opens in milliseconds, and a round costs what its cohort costs, not what the population costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from federated.clients.folder import open_arrays, verify_arrays, write_arrays
from federated.clients.origin import UNSTATED, ClientOrigin
from privacy_pipeline.errors import BadInputError

Array = NDArray[Any]
_FEATURE = "feature."


@dataclass(frozen=True, kw_only=True, eq=False)
class ClientStore:
    """Examples of many clients.

    Attributes:
        features: one array of numbers for each feature, [rows, ...]; all rows of client 0 come first, then client 1's.
        labels: numbers, [rows, ...].
        offsets: rows of client c are offsets[c] to offsets[c + 1] - 1; int64, [clients + 1].
        keys: key of each client, whole numbers or texts, [clients]; ascending where `from_arrays` made the store.
        origin: what one client is.

    Raises:
        BadInputError: no client, a client without examples, arrays of different length, or arrays of something else
            than numbers.
    """

    features: Mapping[str, Array]
    labels: Array
    offsets: NDArray[np.int64]
    keys: Array
    origin: ClientOrigin = UNSTATED

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", MappingProxyType(dict(self.features)))
        if not self.features:
            raise BadInputError("a client store needs at least one feature")
        for name, array in {**self.features, "labels": self.labels}.items():
            if getattr(array, "ndim", 0) < 1 or array.dtype.kind not in "fiub":
                raise BadInputError(f"'{name}' is not an array of numbers with one row for each example")
        self._check_offsets()
        rows = int(self.offsets[-1])
        for name, array in {**self.features, "labels": self.labels}.items():
            if array.shape[0] != rows:
                raise BadInputError(f"'{name}' has {array.shape[0]:,} rows, the clients have {rows:,}")

    def _check_offsets(self) -> None:
        offsets = self.offsets
        if offsets.ndim != 1 or offsets.dtype != np.int64 or offsets.size < 2 or int(offsets[0]) != 0:
            raise BadInputError("offsets need to be int64, [clients + 1], from 0, for at least one client")
        if self.keys.shape != (offsets.size - 1,) or self.keys.dtype.kind not in "iuUS":
            raise BadInputError(f"keys need to be {offsets.size - 1:,} whole numbers or texts, one for each client")
        empty = np.flatnonzero(offsets[1:] <= offsets[:-1])
        if empty.size:
            raise BadInputError(
                f"client {self.keys[empty[0]]!r} has no examples (and {empty.size - 1:,} more)",
                fix="leave clients without examples out of the store",
            )

    @classmethod
    def from_arrays(
        cls,
        *,
        keys_of_rows: ArrayLike,
        features: Mapping[str, ArrayLike],
        labels: ArrayLike,
        origin: ClientOrigin = UNSTATED,
    ) -> ClientStore:
        """Return a store from rows in any order; the rows of a client keep their order.

        Args:
            keys_of_rows: key of the client of each row, whole numbers or texts, [rows].
            features: name -> [rows, ...]; double precision becomes single.
            labels: [rows, ...].
            origin: what one client is.

        Raises:
            BadInputError: as the class; also a key that is missing (None, NaN or an empty text).
        """
        owners = _keys(keys_of_rows)
        arrays = {name: _numbers(values) for name, values in features.items()}
        targets = _numbers(labels)
        for name, array in {**arrays, "labels": targets}.items():
            if array.shape[:1] != owners.shape:
                raise BadInputError(f"'{name}' has the shape {array.shape}, there are {owners.size:,} keys")
        if not owners.size:
            raise BadInputError("there are no rows, so there are no clients")
        order = np.argsort(owners, kind="stable")
        ordered = owners[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        return cls(
            features={name: array[order] for name, array in arrays.items()},
            labels=targets[order],
            offsets=np.append(starts, owners.size).astype(np.int64),
            keys=ordered[starts],
            origin=origin,
        )

    @classmethod
    def open(cls, folder: Path) -> ClientStore:
        """Open what `write` wrote, memory-mapped and read-only; no feature is read.

        Raises:
            BadInputError: the folder holds no whole store, or a file of it has another size than was written.
        """
        arrays, more = open_arrays(folder)
        try:
            return cls(
                features={name[len(_FEATURE) :]: a for name, a in arrays.items() if name.startswith(_FEATURE)},
                labels=arrays["labels"],
                offsets=arrays["offsets"],
                keys=arrays["keys"],
                origin=ClientOrigin(**more["origin"]),
            )
        except KeyError as error:
            raise BadInputError(f"{folder} holds no client store: {error} is missing") from None

    def write(self, folder: Path) -> ClientStore:
        """Write the store; the folder appears whole or not at all. Return the store opened from there.

        Args:
            folder: where to; must not exist, its parent is made if missing.

        Raises:
            BadInputError: the folder exists or cannot be written.
        """
        write_arrays(folder, self._arrays(), more={"origin": self.origin.as_record()})
        return type(self).open(folder)

    @staticmethod
    def verify(folder: Path) -> None:
        """Read every file of a store and compare it with the checksums that were written with it.

        Raises:
            BadInputError: a file is missing or was changed.
        """
        verify_arrays(folder)

    def _arrays(self) -> dict[str, Array]:
        features = {f"{_FEATURE}{name}": array for name, array in self.features.items()}
        return {**features, "labels": self.labels, "offsets": self.offsets, "keys": self.keys}

    @property
    def num_clients(self) -> int:
        """How many clients there are."""
        return int(self.keys.size)

    @property
    def num_examples(self) -> int:
        """Rows of all clients together."""
        return int(self.offsets[-1])

    @property
    def counts(self) -> NDArray[np.int64]:
        """Examples of each client, int64, [clients]."""
        return np.diff(self.offsets)

    def examples_of(self, client: int) -> tuple[dict[str, Array], Array]:
        """Return the features and labels of one client, as views without a copy.

        Args:
            client: its number.

        Raises:
            BadInputError: there is no such client.
        """
        if not 0 <= client < self.num_clients:
            raise BadInputError(f"there is no client {client}: the store holds clients 0 to {self.num_clients - 1}")
        rows = slice(int(self.offsets[client]), int(self.offsets[client + 1]))
        return {name: array[rows] for name, array in self.features.items()}, self.labels[rows]

    def rows_of(self, clients: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of some clients, one client after the other; the cost is that of these clients.

        Args:
            clients: their numbers, [cohort].

        Returns:
            The rows' numbers, int64, and how many of them each client has, int64, [cohort].

        Raises:
            BadInputError: there is no such client.
        """
        chosen = np.asarray(clients, dtype=np.int64).reshape(-1)
        if chosen.size and not 0 <= int(chosen.min()) <= int(chosen.max()) < self.num_clients:
            raise BadInputError(f"the store holds clients 0 to {self.num_clients - 1}")
        starts: NDArray[np.int64] = np.asarray(self.offsets[chosen])
        counts: NDArray[np.int64] = np.asarray(self.offsets[chosen + 1]) - starts
        shifts: NDArray[np.int64] = np.repeat(starts - np.cumsum(counts) + counts, counts)
        return shifts + np.arange(shifts.size, dtype=np.int64), counts

    def select(self, clients: ArrayLike) -> ClientStore:
        """Return a store in memory of some clients alone, in the order given.

        Args:
            clients: their numbers, [chosen], each once.

        Raises:
            BadInputError: no client, a client that does not exist, or one named twice.
        """
        chosen = np.asarray(clients, dtype=np.int64).reshape(-1)
        if np.unique(chosen).size != chosen.size:
            raise BadInputError("a client was selected twice: its examples would count as two clients")
        rows, counts = self.rows_of(chosen)
        return ClientStore(
            features={name: np.asarray(array[rows]) for name, array in self.features.items()},
            labels=np.asarray(self.labels[rows]),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            keys=np.asarray(self.keys[chosen]),
            origin=self.origin,
        )


def _numbers(values: ArrayLike) -> Array:
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _keys(values: ArrayLike) -> Array:
    """Return keys as whole numbers or texts; a missing one is an error: its rows would be nobody's or everybody's."""
    keys = np.asarray(values)
    if keys.ndim != 1:
        raise BadInputError(f"keys need to be one for each row, not of the shape {keys.shape}")
    if keys.dtype.kind == "O":
        missing = np.array([key is None or key != key or key == "" for key in keys], dtype=bool)
    elif keys.dtype.kind == "f":
        missing = np.isnan(keys)
    else:
        missing = keys == "" if keys.dtype.kind in "U" else np.zeros(keys.shape, dtype=bool)
    if missing.any():
        raise BadInputError(
            f"the client's key is missing in {int(missing.sum()):,} of {keys.size:,} rows, first in row "
            f"{int(np.flatnonzero(missing)[0]) + 1}",
            fix="remove these rows or give each a key",
        )
    if keys.dtype.kind == "f":
        whole = keys.astype(np.int64)
        if not np.array_equal(whole, keys):
            raise BadInputError("the client's key is a fraction in some rows; keys are whole numbers or texts")
        return whole
    if keys.dtype.kind == "O":
        return np.asarray([str(key) for key in keys])
    if keys.dtype.kind not in "iuUS":
        raise BadInputError(f"keys are whole numbers or texts, not {keys.dtype}")
    return keys
