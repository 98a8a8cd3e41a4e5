"""What may be asked of a table, how a unit's rows answer it in integers, and how far one unit can move the answer.

A query maps the rows of one privacy unit to integers in named cells; the answer is the sum over all units. Under
zero-out and under add-or-remove-one, two neighbouring tables differ in the contribution of one unit, so the L2
sensitivity of the answer is the largest L2 norm of one contribution, whatever the rows hold. A cell without a
contribution is 0; a value that does not fit a query contributes nothing, because a refusal would itself be a release.
"""

from __future__ import annotations

import itertools
import json
import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Value = str | int | float | None
Row = Mapping[str, Value]

UNIT_OF_FIXED_POINT = 2**20  # the integer that stands for the largest magnitude of a clamped value


@dataclass(frozen=True, kw_only=True)
class Query(ABC):
    """One question.

    Attributes:
        name: unique within a release.
    """

    name: str

    @property
    @abstractmethod
    def cells(self) -> tuple[str, ...] | None:
        """Public names of all cells; None where they are values that only the data holds."""

    @abstractmethod
    def contribution(self, rows: Sequence[Row]) -> Mapping[str, int]:
        """Return what one unit adds to each cell.

        Args:
            rows: its rows, at most as many as the contribution bound.
        """

    @abstractmethod
    def sensitivity_squared(self, bound: int) -> int:
        """Return the square of the L2 norm that the contribution of a unit with at most `bound` rows cannot exceed."""

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Return kind and parameters as JSON values."""


def cell_name(values: Sequence[str]) -> str:
    """Return the name of the cell of a cross of values."""
    return json.dumps(list(values))


def text_of(value: Value) -> str | None:
    """Return a value as the public domain spells it: 3 and 3.0 are both "3". None where it is missing."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def number_of(value: Value) -> float | None:
    """Return a value as a number; None where it is missing or none."""
    if isinstance(value, str) or value is None:
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond all floats; an error would reveal it
        number = math.inf if value > 0 else -math.inf
    return None if math.isnan(number) else number


@dataclass(frozen=True, kw_only=True)
class Counts(Query):
    """Rows for each combination of values from public domains; without columns, all rows.

    Each row adds 1 to at most one cell, and all rows of a unit may fall into the same: L2 norm at most the bound.

    Attributes:
        columns: columns whose values are crossed.
        domains: public values of each.
    """

    columns: tuple[str, ...] = ()
    domains: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if len(self.columns) != len(self.domains) or any(len(set(d)) != len(d) or not d for d in self.domains):
            raise ValueError("a count needs a domain of distinct values for each column")

    @property
    def cells(self) -> tuple[str, ...]:
        """One for each combination."""
        return tuple(cell_name(values) for values in self.combinations())

    def combinations(self) -> tuple[tuple[str, ...], ...]:
        """Return all combinations of values, in the order of `cells`."""
        return tuple(itertools.product(*self.domains))

    def contribution(self, rows: Sequence[Row]) -> Mapping[str, int]:
        """Return the number of rows of the unit in each cell."""
        counts: Counter[str] = Counter()
        for row in rows:
            values = [text_of(row.get(column)) for column in self.columns]
            if all(value in domain for value, domain in zip(values, self.domains, strict=True)):
                counts[cell_name([str(value) for value in values])] += 1
        return counts

    def sensitivity_squared(self, bound: int) -> int:
        """Return the square for the worst case: all rows in one cell."""
        return bound**2

    def describe(self) -> dict[str, object]:
        """Return kind and parameters."""
        return {"kind": "counts", "columns": list(self.columns), "domains": [list(domain) for domain in self.domains]}


@dataclass(frozen=True, kw_only=True)
class Histogram(Query):
    """Rows for each interval between public edges; quantiles and ranges follow from it.

    Cell i counts values from edge i - 1 up to, but not including, edge i: cell 0 lies below all edges, the last above.

    Attributes:
        column: a numeric column.
        edges: public edges, ascending.
    """

    column: str
    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.edges or list(self.edges) != sorted(set(self.edges)) or not all(map(math.isfinite, self.edges)):
            raise ValueError("a histogram needs finite edges in ascending order")

    @property
    def cells(self) -> tuple[str, ...]:
        """The intervals, by number."""
        return tuple(str(index) for index in range(len(self.edges) + 1))

    def contribution(self, rows: Sequence[Row]) -> Mapping[str, int]:
        """Return the number of rows of the unit in each interval."""
        numbers = (number_of(row.get(self.column)) for row in rows)
        return Counter(str(bisect_right(self.edges, number)) for number in numbers if number is not None)

    def sensitivity_squared(self, bound: int) -> int:
        """Return the square for the worst case: all rows in one interval."""
        return bound**2

    def describe(self) -> dict[str, object]:
        """Return kind and parameters."""
        return {"kind": "histogram", "column": self.column, "edges": list(self.edges)}


@dataclass(frozen=True, kw_only=True)
class Moments(Query):
    """Number of values, and sum of the clamped and centred values, in fixed point.

    A row adds x to `sum`, with |x| at most U = `UNIT_OF_FIXED_POINT`, and U to `count`: L2 norm at most sqrt(2) U.

    Attributes:
        column: a numeric column.
        minimum: public lower bound; lower values count as it.
        maximum: public upper bound.
    """

    column: str
    minimum: float
    maximum: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.minimum) and math.isfinite(self.maximum) and self.minimum < self.maximum):
            raise ValueError("a mean needs a finite minimum below a finite maximum")
        if not 0 < self.half_width < math.inf:
            raise ValueError("the range of a mean is too wide, or too narrow, for its width to be a number")

    @property
    def centre(self) -> float:
        """The middle of the range."""
        return self.minimum / 2 + self.maximum / 2

    @property
    def half_width(self) -> float:
        """Half of the range."""
        return self.maximum / 2 - self.minimum / 2

    @property
    def cells(self) -> tuple[str, ...]:
        """The two sums."""
        return ("sum", "count")

    def contribution(self, rows: Sequence[Row]) -> Mapping[str, int]:
        """Return sums over the unit's rows, in units of fixed point."""
        numbers = [number for number in (number_of(row.get(self.column)) for row in rows) if number is not None]
        return {"sum": sum(map(self._fixed, numbers)), "count": UNIT_OF_FIXED_POINT * len(numbers)} if numbers else {}

    def _fixed(self, number: float) -> int:
        clamped = min(max(number, self.minimum), self.maximum)
        scaled = round((clamped - self.centre) / self.half_width * UNIT_OF_FIXED_POINT)
        return min(max(scaled, -UNIT_OF_FIXED_POINT), UNIT_OF_FIXED_POINT)

    def sensitivity_squared(self, bound: int) -> int:
        """Return the square for the worst case: all rows at the same end of the range."""
        return 2 * (bound * UNIT_OF_FIXED_POINT) ** 2

    def describe(self) -> dict[str, object]:
        """Return kind and parameters."""
        return {"kind": "moments", "column": self.column, "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True, kw_only=True)
class Vocabulary(Query):
    """Units for each value of a column whose values nobody knows; released above a threshold only.

    A unit adds 1 to each of its different values, of which there are at most as many as rows: L2 norm at most
    sqrt(bound), and no value is lifted above 1 by one unit alone.

    Attributes:
        column: a column of text or whole numbers.
    """

    column: str

    @property
    def cells(self) -> None:
        """Unknown."""
        return None

    def contribution(self, rows: Sequence[Row]) -> Mapping[str, int]:
        """Return 1 for each different value of the unit."""
        values = {text_of(row.get(self.column)) for row in rows}
        return {value: 1 for value in values if value is not None}

    def sensitivity_squared(self, bound: int) -> int:
        """Return the square for the worst case: a different value in each row."""
        return bound

    def describe(self) -> dict[str, object]:
        """Return kind and parameters."""
        return {"kind": "vocabulary", "column": self.column}
