"""The one meaning of a cell: what it is a value of, whether it is one, and which.

As TFX's CsvExampleGen has it: a cell is the text between two commas, blanks included. An empty one is missing. A column
is of integers where each of its other cells is one of 64 bits as Python reads it from ASCII (` 7`, `+7` and `007` are
7), else of numbers where each is one, else of texts, whose blanks and zeros count. Numbers are kept in 32 bits. `NaN`
in a column of numbers is a missing value, and what 32 bits hold as infinity is not a value at all.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.data.schema.unit_keys import INT64, as_int

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["empty", "int", "float", "bytes"]
WIDENING: tuple[Kind, ...] = ("empty", "int", "float", "bytes")  # each holds what the ones before it hold
LONGEST_CATEGORY = 1024  # bytes: StatisticsGen puts all longer texts into one, which no domain has
_INT, _FLOAT = 1, 2
_SINGLE = struct.Struct("f")

# What Arrow reads as Python does, and fast. Anything else is given to Python.
_PLAIN_INTEGER = r"^-?[0-9]{1,18}$"
_PLAIN_FRACTION = r"^-?[0-9]{1,15}\.[0-9]{1,15}$"
TOO_COARSE = "write whole numbers without a fraction and describe them as INT, or subtract a public number from them"
_FEWEST_STEPS = 1024  # that numbers of 32 bits have to have within a range
_PLAIN_NUMBER = r"^-?[0-9]{1,15}(\.[0-9]{1,15})?$"


@dataclass(frozen=True, eq=False)
class Texts:
    """Cells of one column by their different texts.

    Attributes:
        different: each text once, an Arrow array of strings.
        places: for each row, which of them; int32, [rows].
    """

    different: pa.StringArray
    places: NDArray[np.int32]

    @classmethod
    def of(cls, cells: pa.StringArray) -> Texts:
        """Return the texts of a column of `csv_table.Cells`."""
        coded = cells.dictionary_encode()
        return cls(coded.dictionary, coded.indices.to_numpy(zero_copy_only=False))

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values of the different texts as values of the rows."""
        return np.asarray(values[self.places])


def kind_of(cell: str) -> Kind:
    """Return the narrowest kind that has one cell."""
    if not cell:
        return "empty"
    if as_int(cell) is not None:
        return "int"
    return "bytes" if as_single(cell) is None else "float"


def kinds_of(different: pa.StringArray) -> NDArray[np.int8]:
    """Return places of the kinds of texts in `WIDENING`; the widest is that of their column."""
    plain = _matches(different, _PLAIN_INTEGER)
    fraction = _matches(different, _PLAIN_FRACTION)
    found = np.where(plain, _INT, np.where(fraction, _FLOAT, 0)).astype(np.int8)
    for at in np.flatnonzero(~plain & ~fraction):
        found[at] = WIDENING.index(kind_of(different[int(at)].as_py()))
    return found


@dataclass(frozen=True, eq=False)
class Numbers:
    """Texts of a column of numbers.

    Attributes:
        values: int64 or float32; 0 where there is none.
        missing: where the text stands for a missing value.
        wrong: where it is not a value of the column's type, or infinite.
    """

    values: NDArray[Any]
    missing: NDArray[np.bool_]
    wrong: NDArray[np.bool_]


def integers(different: pa.StringArray) -> Numbers:
    """Return texts as 64-bit integers."""
    values, missing, odd = _parsed(different, _PLAIN_INTEGER, np.int64)
    wrong = np.zeros(len(values), np.bool_)
    for at in odd:
        value = as_int(different[int(at)].as_py())
        values[at], wrong[at] = value or 0, value is None
    return Numbers(values, missing, wrong)


def fractions(different: pa.StringArray) -> Numbers:
    """Return texts as numbers of 32 bits; NaN is missing."""
    values, missing, odd = _parsed(different, _PLAIN_NUMBER, np.float64)
    wrong = np.zeros(len(values), np.bool_)
    for at in odd:
        value = as_single(different[int(at)].as_py())
        values[at], wrong[at] = value or 0.0, value is None
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    missing |= np.isnan(single)
    wrong |= np.isinf(single)
    single[missing | wrong] = 0
    return Numbers(single, missing, wrong)


def ends_of(different: pa.StringArray) -> tuple[float, float] | None:
    """Return the least and largest number of texts that 32 bits can hold, as they are with 64; None without any."""
    values, missing, odd = _parsed(different, _PLAIN_NUMBER, np.float64)
    for at in odd:
        text = different[int(at)].as_py()
        values[at] = float(text) if as_single(text) is not None else math.nan
    with np.errstate(over="ignore"):
        finite = values[~missing & np.isfinite(values.astype(np.float32))]
    return (float(finite.min()), float(finite.max())) if finite.size else None


def coarse(low: float, high: float) -> str | None:
    """Return why numbers of 32 bits do not distinguish values of a range; None where they do.

    ExampleGen keeps fractions with 24 significant bits. Times in seconds since 1970 are then 128 apart, and whole days
    of them one number.

    Args:
        low: least value of the range.
        high: its largest one.
    """
    apart = float(np.spacing(np.float32(max(abs(low), abs(high)))))
    if high <= low or apart * _FEWEST_STEPS <= high - low:
        return None
    return (
        f"numbers near {max(low, high, key=abs):.9g} with 32 bits are {apart:g} apart, in a range {high - low:g} wide"
    )


def categories(different: pa.StringArray, kind: Kind) -> list[str]:
    """Return texts as public domains spell them; a missing one is ""."""
    found: list[str] = different.to_pylist()
    if kind in ("empty", "bytes"):
        return found
    return ["" if is_missing(cell, kind) else spelled(cell, kind) for cell in found]


def is_missing(cell: str, kind: Kind) -> bool:
    """Return whether a cell of a column of that kind stands for a missing value."""
    value = as_single(cell) if cell and kind == "float" else None
    return not cell or (value is not None and math.isnan(value))


def spelled(cell: str, kind: Kind) -> str:
    """Return a category as its public domain spells it: in a column of integers `007` is "7"; a text is as it is
    written.
    """
    value = as_int(cell) if kind == "int" else as_single(cell) if kind == "float" else None
    if value is None or not math.isfinite(value):
        return cell
    return str(int(value)) if value == int(value) else str(np.float32(value))


def as_single(cell: str) -> float | None:
    """Return what 32 bits hold of a number; None where it is none, or a whole one of more than 64 bits, which is a
    text.
    """
    value = None if too_long(cell) else _number(cell)
    if value is None:
        return None
    try:
        single: float = _SINGLE.unpack(_SINGLE.pack(value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return single


def too_long(cell: str) -> bool:
    """Return whether it is a whole number of more than 64 bits."""
    try:
        return int(cell.encode("utf-8")) not in INT64
    except ValueError:
        return False


def _number(cell: str) -> float | None:
    """Return a number as TFX reads it, whole ones too."""
    try:
        return float(cell.encode("utf-8"))
    except ValueError:
        return None


def _parsed(
    different: pa.StringArray, plain: str, dtype: type[np.int64] | type[np.float64]
) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.int64]]:
    """Return values of the texts that Arrow reads, where a text is missing, and places of the others."""
    import pyarrow as pa
    from pyarrow import compute

    values: NDArray[Any] = np.zeros(len(different), dtype)
    missing = np.asarray(compute.binary_length(different)) == 0
    read = _matches(different, plain)
    if read.any():
        values[read] = different.filter(pa.array(read)).cast(pa.from_numpy_dtype(values.dtype)).to_numpy()
    return values, missing, np.flatnonzero(~read & ~missing)


def _matches(different: pa.StringArray, pattern: str) -> NDArray[np.bool_]:
    from pyarrow import compute

    found: NDArray[np.bool_] = compute.match_substring_regex(different, pattern).to_numpy(zero_copy_only=False)
    return found.astype(np.bool_)
