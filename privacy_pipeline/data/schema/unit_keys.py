"""Keys of privacy units: their type, and the split that each comes into, as TFX's ExampleGen has them.

Keys that are written as Python writes integers are held as 64-bit numbers, which takes a tenth of the memory of texts.
"""

from __future__ import annotations

import bisect
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.text.plain_text import plain_key

if TYPE_CHECKING:
    import pyarrow as pa

# Order of the buckets in ExampleGen's output config; another order would put other rows into each split.
SPLIT_ORDER: tuple[Literal["train"], Literal["eval"]] = ("train", "eval")
Buckets: TypeAlias = Mapping[Literal["train", "eval"], int]
INT64 = range(-(2**63), 2**63)  # what a 64-bit integer holds
_AS_PYTHON_WRITES = r"^(0|-?[1-9][0-9]{0,17})$"
_Integers: TypeAlias = NDArray[np.int64]
Keys: TypeAlias = "list[str] | _Integers"  # of some rows, as they are written


@dataclass(frozen=True, eq=False)
class UnitKeys:
    """The different keys of some rows; iterating gives them as texts.

    Attributes:
        values: integers in ascending order, or texts.
        counts: rows of each.
        are_texts: whether they are texts whatever they look like, as in TFRecord files, which hold the type.
    """

    values: _Integers | tuple[str, ...]
    counts: _Integers
    are_texts: bool = False

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[str]:
        return iter(self.values) if isinstance(self.values, tuple) else map(str, self.values.tolist())

    @property
    def rows(self) -> int:
        """Rows of all of them together."""
        return int(self.counts.sum())

    @property
    def are_integers(self) -> bool:
        """Whether they are held as integers."""
        return not isinstance(self.values, tuple)

    def typed(self, key: str, folder: Path) -> UnitKeys:
        """As ExampleGen types the column: int64 if all are integers, else bytes; 07 and 7 are one int, two texts.

        Args:
            key: the column, for messages.
            folder: of the data, for messages.

        Raises:
            BadInputError: it reads them as floating point.
        """
        if self.are_texts or not isinstance(self.values, tuple):
            return self
        others = [text for text in self.values if as_int(text) is None]
        if not others:
            integers = np.array([as_int(text) for text in self.values], np.int64)
            return _summed(integers, self.counts)
        if all(_is_float(text) for text in others):
            raise BadInputError(
                f"{folder}: ExampleGen reads the key column '{key}' as floating point, because all its values look "
                f"like numbers and one is '{others[0]}'",
                fix="let the keys be integers, or start them with a letter",
            )
        return self

    def divided(self, buckets: Buckets) -> dict[str, UnitKeys]:
        """Return typed keys by the split that ExampleGen puts each into.

        Args:
            buckets: `hash_split` of the config.
        """
        in_split = _splits(self.values, buckets)
        return {split: self._where(in_split == at) for at, split in enumerate(SPLIT_ORDER)}

    def _where(self, chosen: NDArray[np.bool_]) -> UnitKeys:
        values = self.values
        kept = tuple(np.array(values, object)[chosen]) if isinstance(values, tuple) else values[chosen]
        return UnitKeys(kept, self.counts[chosen], self.are_texts)


class KeyReader:
    """Collects the keys of rows.

    Args:
        are_texts: see `UnitKeys`.
    """

    def __init__(self, *, are_texts: bool = False) -> None:
        self._are_texts = are_texts
        self._integers: list[_Integers] | None = None if are_texts else []
        self._texts: Counter[str] = Counter()

    def add(self, keys: Keys) -> None:
        """Take the keys of some rows."""
        if self._integers is not None:
            found = compact(keys) if isinstance(keys, list) else keys
            if not isinstance(found, list):
                self._integers.append(found)
                return
            for earlier in self._integers:
                self._texts.update(map(str, earlier.tolist()))
            self._integers = None
        self._texts.update(keys if isinstance(keys, list) else map(str, keys.tolist()))

    def done(self) -> UnitKeys:
        """Return what was read."""
        if self._integers is None:
            counts = np.fromiter(self._texts.values(), np.int64, len(self._texts))
            return UnitKeys(tuple(self._texts), counts, self._are_texts)
        values, numbers = np.unique(np.concatenate([np.empty(0, np.int64), *self._integers]), return_counts=True)
        return UnitKeys(values, numbers.astype(np.int64))


def compact(keys: list[str]) -> Keys:
    """Return the integers whose texts these are; the texts where one is not an integer of 64 bits, or is written
    otherwise.
    """
    try:
        found = np.fromiter(map(int, keys), np.int64, len(keys))
    except (ValueError, OverflowError):
        return keys
    return found if list(map(str, found.tolist())) == keys else keys


def keys_of(cells: pa.StringArray) -> Keys | None:
    """Return keys as they are written, of a column of `csv_table.Cells`; None where one is empty."""
    from pyarrow import compute

    if len(cells) and compute.min(compute.binary_length(cells)).as_py() == 0:
        return None
    if compute.all(compute.match_substring_regex(cells, _AS_PYTHON_WRITES)).as_py():
        return np.asarray(cells.cast("int64").to_numpy(), np.int64)
    return compact(cells.to_pylist())


def _summed(values: _Integers, counts: _Integers) -> UnitKeys:
    different, where = np.unique(values, return_inverse=True)
    total = np.zeros(len(different), np.int64)
    np.add.at(total, where, counts)
    return UnitKeys(different, total)


def in_both(one: UnitKeys, other: UnitKeys) -> int:
    """Return how many units are in both; compared as integers where they look like ones: 07 and 7 may be one person."""
    (first, texts), (second, more) = _as_integers(one), _as_integers(other)
    return len(np.intersect1d(first, second)) + len(texts & more)


def _as_integers(keys: UnitKeys) -> tuple[_Integers, set[str]]:
    if not isinstance(keys.values, tuple):
        return keys.values, set()
    found = {text: value for text in keys.values if (value := as_int(text)) is not None}
    return np.array(list(found.values()), np.int64), set(keys.values) - set(found)


def spelling_note(written: UnitKeys, key: str) -> str:
    """Return what a person should know of keys that are spelled in several ways; "" where none is.

    Args:
        written: the keys of some rows, as they are written.
        key: their column.
    """
    if not isinstance(written.values, tuple):
        return ""
    if len({plain_key(text) for text in written.values}) == len(written.values):
        return ""
    if all(as_int(text) is not None for text in written.values):
        how, what = "as whole numbers, so that such keys are read as one unit", "make sure that they are one"
    else:
        how, what = "as texts, so that such keys are read as two units", "write them alike if they are one"
    return f"some keys '{key}' differ in case, blanks or leading zeros alone; all are read {how}: {what}"


def as_int(text: str) -> int | None:
    """Return an integer as TFX reads it: what Python reads as an integer from ASCII and fits 64 bits."""
    try:
        value = int(text.encode("utf-8"))
    except ValueError:
        return None
    return value if value in INT64 else None


def _is_float(text: str) -> bool:
    """Return whether TFX reads a float: integers too large for 64 bits are texts, other numbers are floats."""
    try:
        int(text.encode("utf-8"))
    except ValueError:
        try:
            float(text.encode("utf-8"))
        except ValueError:
            return False
        return True
    return False


def partition_bytes(*, value: int | str) -> bytes:
    """Return the tf.train.Feature of one key, serialized: what ExampleGen hashes for `partition_feature_name`.

    Written out here (length-delimited protobuf fields) so that counting needs no TensorFlow.
    """
    if isinstance(value, int):
        packed = _varint(value % 2**64)
        return _field(3, _field(1, packed))  # Feature.int64_list { packed value }
    return _field(1, _field(1, value.encode("utf-8")))  # Feature.bytes_list { value }


def split_of(*, value: int | str, buckets: Buckets) -> str:
    """Return the split that ExampleGen puts a key into.

    Args:
        value: the key, an int where ExampleGen reads the column as int64.
        buckets: `hash_split` of the config.
    """
    return SPLIT_ORDER[int(_splits((value,) if isinstance(value, str) else np.array([value], np.int64), buckets)[0])]


def _splits(values: _Integers | tuple[str, ...], buckets: Buckets) -> NDArray[np.int64]:
    """Return the place in `SPLIT_ORDER` of the split of each key."""
    limits = list(accumulate(buckets[split] for split in SPLIT_ORDER))
    total, sha256, from_bytes = limits[-1], hashlib.sha256, int.from_bytes
    keys = values if isinstance(values, tuple) else values.tolist()
    found = (from_bytes(sha256(partition_bytes(value=key)).digest(), "big") % total for key in keys)
    return np.fromiter((bisect.bisect(limits, bucket) for bucket in found), np.int64, len(keys))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
