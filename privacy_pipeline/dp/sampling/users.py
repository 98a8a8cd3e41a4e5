"""Which examples belong to which user, for a guarantee that protects users."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded_arrays import open_array

Indices = NDArray[np.int64]
_ORDER, _OFFSETS = "users_order.npy", "users_offsets.npy"


@dataclass(frozen=True)
class UserIndex:
    """Examples by user, in compressed rows: those of user u are order[offsets[u] : offsets[u + 1]].

    Attributes:
        order: numbers of the examples, user by user, int64, [examples]; in memory or memory-mapped.
        offsets: int64, [users + 1]; a user may have no example.

    Raises:
        BadInputError: the offsets do not fit.
    """

    order: Indices
    offsets: Indices

    def __post_init__(self) -> None:
        ends = self.offsets[[0, -1]] if self.offsets.size > 1 else np.array([-1, -1])
        if ends.tolist() != [0, self.order.size] or np.any(np.diff(self.offsets) < 0):
            raise BadInputError("offsets of users must rise from 0 to the number of examples")

    @classmethod
    def from_owners(cls, owners: Iterable[Any]) -> UserIndex:
        """Return an index in which users are numbered in the order of their names.

        Args:
            owners: owner of each example, numbers or strings, [examples].

        Raises:
            BadInputError: there are no users, or not one for each example.
        """
        names = np.asarray(owners)
        if names.ndim != 1 or not names.size or names.dtype.kind not in "iuUSb":
            raise BadInputError("users must be an array of one whole number or string for each example")
        _, numbers, counts = np.unique(names, return_inverse=True, return_counts=True)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(np.argsort(numbers, kind="stable").astype(np.int64), offsets)

    def write(self, folder: Path) -> None:
        """Write two .npy files."""
        np.save(folder / _ORDER, self.order)
        np.save(folder / _OFFSETS, self.offsets)

    @classmethod
    def open(cls, folder: Path) -> UserIndex | None:
        """Open what `write` wrote, read-only; None where there is nothing."""
        if not (folder / _ORDER).is_file():
            return None
        return cls(*(open_array(folder / name, fix="write the store again") for name in (_ORDER, _OFFSETS)))

    def __len__(self) -> int:
        return int(self.offsets.size - 1)

    def pick(self, users: Indices, *, most: int, generator: np.random.Generator) -> tuple[Indices, Indices]:
        """Return examples of some users, at most `most` of each: all, or a random subset that depends on no other user.

        Args:
            users: numbers of users, int64, [users].
            most: examples of a user at most.
            generator: source of randomness.

        Returns:
            Numbers of the examples, user by user, and how many each user has, int64, [users].
        """
        starts, counts = self.offsets[users], self.offsets[users + 1] - self.offsets[users]
        ends = np.cumsum(counts)
        total = int(counts.sum())
        owner = np.repeat(np.arange(users.size), counts)
        within = np.arange(total) - np.repeat(ends - counts, counts)
        places = np.repeat(starts, counts) + within
        if total and counts.max() > most:
            # Examples in a random order within each user; the first ones stay.
            places = places[np.lexsort((generator.random(total), owner))][within < most]
        return np.asarray(self.order[places], np.int64), np.minimum(counts, most).astype(np.int64)


def in_slots(rows: Indices, counts: Indices, *, slots: int) -> tuple[Indices, NDArray[np.bool_]]:
    """Users' examples in a fixed number of slots each.

    A slot that stays free repeats the user's first example, so that nothing but the user's own data is computed on;
    -1 where the user has none.

    Args:
        rows: numbers of examples, user by user.
        counts: how many each user has, at most `slots`, [users].
        slots: slots of each user.

    Returns:
        Numbers of examples, int64, [users * slots], and which slots are taken, bool.
    """
    taken = np.arange(slots) < counts[:, None]
    first = np.cumsum(counts) - counts
    places = first[:, None] + np.where(taken, np.arange(slots), 0)
    filled = np.where(counts[:, None] > 0, np.append(rows, -1)[np.minimum(places, rows.size)], -1)
    return filled.reshape(-1), taken.reshape(-1)
