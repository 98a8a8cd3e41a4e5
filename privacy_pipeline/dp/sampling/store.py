"""Random access to examples on disk: one memory-mapped array for each feature, so that data may exceed memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.dp.graphs.buffers import aligned_empty
from privacy_pipeline.dp.sampling.users import UserIndex
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded_arrays import open_array

Array = NDArray[Any]
# An array, or a dict, list or tuple of those.
Nest = Any
_X, _Y = "x", "y"
_DIGEST_BYTES = 16 * 2**20  # what is read at a time


def map_nest(function: Any, nest: Nest) -> Nest:
    """Apply `function` to each array of a nest and keep the structure; tuples and lists become tuples."""
    if isinstance(nest, Mapping):
        return {name: map_nest(function, nest[name]) for name in nest}
    if isinstance(nest, (list, tuple)):
        return tuple(map_nest(function, part) for part in nest)
    return function(nest)


def leaves(nest: Nest, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield arrays of a nest with the path to each, such as "x.age" or "x.0"."""
    if isinstance(nest, Mapping):
        for name in nest:
            yield from leaves(nest[name], f"{path}.{name}" if path else str(name))
    elif isinstance(nest, (list, tuple)):
        for place, part in enumerate(nest):
            yield from leaves(part, f"{path}.{place}")
    else:
        yield path, nest


@dataclass(frozen=True)
class ExampleStore:
    """Examples by number.

    Attributes:
        x: inputs: an array [examples, ...], or a dict or tuple of arrays; in memory or memory-mapped.
        y: labels, in the same forms.
        users: whose example each is, for a guarantee that protects users.

    Raises:
        BadInputError: no example, arrays of different length, or strings and objects.
    """

    x: Nest
    y: Nest
    users: UserIndex | None = None

    def __post_init__(self) -> None:
        lengths = {}
        for path, array in leaves({_X: self.x, _Y: self.y}):
            if getattr(array, "ndim", 0) < 1 or array.dtype.kind not in "fiub":
                raise BadInputError(f"'{path}' is not an array of numbers with one row for each example")
            lengths[path] = array.shape[0]
        if self.users is not None:
            lengths["users"] = self.users.order.size
        if len(set(lengths.values())) != 1 or not min(lengths.values()):
            some = ", ".join(f"'{path}' has {count:,}" for path, count in list(lengths.items())[:4])
            more = f" and so on, {len(lengths)} arrays" if len(lengths) > 4 else ""
            raise BadInputError(
                f"all arrays need the same number of examples, and at least one: {some}{more}",
                fix="give each input as one array with a row for each example; np.stack(x) makes one of a list of rows",
            )

    def kept(self) -> ExampleStore:
        """Return the same examples in arrays that nobody else can write to; what is read-only stays as it is."""

        def own(array: Any) -> Any:
            return np.array(array) if array.flags.writeable else array

        return ExampleStore(map_nest(own, self.x), map_nest(own, self.y), self.users)

    @classmethod
    def from_arrays(cls, x: Nest, y: Nest, *, users: Iterable[Any] | None = None) -> ExampleStore:
        """Return a store over arrays, or what NumPy can make arrays of; double precision becomes single.

        Args:
            x: inputs.
            y: labels.
            users: owner of each example, numbers or strings, [examples].
        """
        index = None if users is None else UserIndex.from_owners(users)
        return cls(map_nest(as_array, x), map_nest(as_array, y), index)

    @classmethod
    def write(
        cls, folder: Path, chunks: Iterable[tuple[Nest, Nest]], *, examples: int, users: Iterable[Any] | None = None
    ) -> ExampleStore:
        """Write examples that come in pieces as one .npy file for each feature, and open them.

        Args:
            folder: where to; made if missing.
            chunks: (x, y) of some examples each; only one is held in memory at a time.
            examples: how many there are in all.
            users: owner of each example, numbers or strings, [examples].

        Raises:
            BadInputError: another number of examples came, or the folder holds a store.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob("*.npy")):
            raise BadInputError(f"{folder} holds a store already")
        files: dict[str, Any] = {}
        done = 0
        structure: Nest = None
        for x, y in chunks:
            store = cls.from_arrays(x, y)
            structure = {_X: store.x, _Y: store.y}
            if done + len(store) > examples:
                raise BadInputError(f"more than the {examples} examples announced")
            for path, array in leaves(structure):
                if path not in files:
                    files[path] = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                        folder / f"{path}.npy", mode="w+", dtype=array.dtype, shape=(examples, *array.shape[1:])
                    )
                files[path][done : done + len(store)] = array
            done += len(store)
        if done != examples or structure is None:
            raise BadInputError(f"{done} examples came, {examples} were announced")
        for file in files.values():
            file.flush()
        if users is not None:
            UserIndex.from_owners(users).write(folder)
        return cls.open(folder, like=structure)

    @classmethod
    def open(cls, folder: Path, *, like: Nest) -> ExampleStore:
        """Open what `write` wrote, read-only.

        Args:
            folder: the folder.
            like: {"x": ..., "y": ...} in the structure that was written; the leaves are not read.

        Raises:
            BadInputError: a file is missing.
        """
        opened: dict[str, Array] = {}
        for path, _ in leaves(like):
            file = folder / f"{path}.npy"
            if not file.is_file():
                raise BadInputError(f"{file} is missing")
            opened[path] = open_array(file, fix="write the store again")
        paths = iter([path for path, _ in leaves(like)])
        filled = map_nest(lambda _: opened[next(paths)], like)
        return cls(filled[_X], filled[_Y], UserIndex.open(folder))

    def __len__(self) -> int:
        return int(next(leaves(self.x))[1].shape[0])

    def digest(self) -> str:
        """Return the SHA-256 over all arrays, and whose they are; reads all of the data."""
        digest = hashlib.sha256()
        users = {} if self.users is None else {"order": self.users.order, "offsets": self.users.offsets}
        for path, array in leaves({_X: self.x, _Y: self.y, "users": users}):
            digest.update(f"{path}\0{array.dtype.str}\0{array.shape}\0".encode())
            length = max(1, _DIGEST_BYTES // max(1, array[:1].nbytes))
            for start in range(0, array.shape[0], length):
                digest.update(np.ascontiguousarray(array[start : start + length]).data)
        return digest.hexdigest()

    def rows(self, index: NDArray[np.int64]) -> tuple[Nest, Nest]:
        """Return some examples.

        Args:
            index: their numbers, int64, [batch]; -1 for a row of zeros.

        Returns:
            x and y, with [batch, ...] in place of [examples, ...].

        Raises:
            BadInputError: there is no such example.
        """
        if index.size and not -1 <= int(index.min()) <= int(index.max()) < len(self):
            raise BadInputError(f"the store holds examples 0 to {len(self) - 1}")
        return map_nest(lambda array: _take(array, index), self.x), map_nest(lambda a: _take(a, index), self.y)


def as_array(values: Any) -> Array:
    """Return an array of what NumPy can make one of; double precision becomes single."""
    array = values if isinstance(values, np.ndarray) else np.asarray(values)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _take(array: Array, index: NDArray[np.int64]) -> Array:
    """Return rows in memory that TensorFlow can use in place; zeros where the number is -1."""
    rows: Array = aligned_empty([index.size, *array.shape[1:]], array.dtype)
    # "raise" would make `take` buffer its output. The numbers were checked; "clip" reads row 0 for -1.
    np.take(np.asarray(array), index, axis=0, out=rows, mode="clip")
    rows[index < 0] = 0
    return rows
