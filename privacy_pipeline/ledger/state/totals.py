"""What a budget's counted entries cost together, as exact fixed-point integers that a write adds to.

A float is kept as ceil(value * 2**64), so that no total is below the sum of its parts, and sums and differences of
integers are exact in any order: adding a charge, or taking back one that expired, needs no other entry. Infinite values
(a run that could not be accounted for) are counted beside the sums.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from privacy_pipeline.accounting.renyi import ORDERS, ORDERS_VERSION
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.ledger.storage.journal import VERIFY
from privacy_pipeline.ledger.storage.schema import LedgerError

_BITS = 64
_DAMAGED = "the stored totals of budget {} are damaged"


def fixed(value: float) -> tuple[int, int]:
    """Return a float of 0 or more as (fixed-point integer rounded up, 1 if it is infinite)."""
    if math.isinf(value):
        return 0, 1
    numerator, denominator = value.as_integer_ratio()
    return -((-numerator << _BITS) // denominator), 0


def to_float(number: int, infinite: int) -> float:
    """Return the least float that is not below a fixed-point number."""
    if infinite:
        return math.inf
    value = number / (1 << _BITS)
    numerator, denominator = value.as_integer_ratio()
    return math.nextafter(value, math.inf) if (numerator << _BITS) < number * denominator else value


@dataclass(frozen=True)
class Sum:
    """A sum of charges.

    Attributes:
        numbers: fixed-point sums: the Renyi divergence at each order, then the total variation distance, then the
            entries' own epsilons at the cap's delta.
        infinite: for each of them, how many values were infinite.
        count: number of charges.
    """

    numbers: tuple[int, ...] = (0,) * (len(ORDERS) + 2)
    infinite: tuple[int, ...] = (0,) * (len(ORDERS) + 2)
    count: int = 0

    @classmethod
    def of(cls, values: Sequence[float], distance: float, epsilon: float) -> Sum:
        """Return the sum of one charge."""
        return _one(tuple(values), distance, epsilon)

    def __add__(self, other: Sum) -> Sum:
        return Sum(
            tuple(map(int.__add__, self.numbers, other.numbers)),
            tuple(map(int.__add__, self.infinite, other.infinite)),
            self.count + other.count,
        )

    def __sub__(self, other: Sum) -> Sum:
        return self + other.times(-1)

    def times(self, count: int) -> Sum:
        """Return the sum of this many copies."""
        return Sum(tuple(n * count for n in self.numbers), tuple(n * count for n in self.infinite), self.count * count)

    @property
    def values(self) -> tuple[float, ...]:
        """Renyi divergence at each order, rounded up."""
        return tuple(map(to_float, self.numbers[:-2], self.infinite[:-2]))

    @property
    def distance(self) -> float:
        """Total variation distance, rounded up."""
        return to_float(self.numbers[-2], self.infinite[-2])

    @property
    def simple_epsilon(self) -> float:
        """Sum of the entries' own epsilons, rounded up."""
        return to_float(self.numbers[-1], self.infinite[-1])


@functools.lru_cache(maxsize=256)  # equal runs are charged alike, within the lock
def _one(values: tuple[float, ...], distance: float, epsilon: float) -> Sum:
    pairs = [fixed(value) for value in (*values, distance, epsilon)]
    return Sum(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs), 1)


@dataclass(frozen=True, kw_only=True)
class Totals:
    """All that a budget's row holds of its entries.

    Attributes:
        spent: sum of the counted entries of each purpose.
        states: number of entries in each state.
        overruns: entries that executed more than they planned.
    """

    spent: Mapping[str, Sum] = field(default_factory=dict)
    states: Mapping[str, int] = field(default_factory=dict)
    overruns: int = 0

    @property
    def all(self) -> Sum:
        """Sum of all counted entries."""
        return sum_of(self.spent.values())

    def adding(self, purpose: str, charge: Sum) -> Totals:
        """Return the totals with one sum more for a purpose; `times(-1)` takes it back."""
        spent = {**self.spent, purpose: self.spent.get(purpose, Sum()) + charge}
        return Totals(spent=spent, states=self.states, overruns=self.overruns)

    def moving(self, before: str | None, after: str, *, overrun: bool = False) -> Totals:
        """Return the totals with an entry that went from one state to another; from None where it is new.

        Raises:
            LedgerError: no entry is in that state: somebody edited the entry's row, for example to have it given back.
        """
        states = dict(self.states)
        if before is not None:
            if not states.get(before):
                raise LedgerError(f"an entry is {before} that should not be; nothing was written", fix=VERIFY)
            states[before] = states.get(before, 0) - 1
        states[after] = states.get(after, 0) + 1
        return Totals(spent=self.spent, states=states, overruns=self.overruns + overrun)

    def to_json(self) -> str:
        """Return the totals as text for the budget's row; zeros are left out, so that equal totals have one text."""
        spent = {
            purpose: [part.count, list(part.numbers), {str(i): n for i, n in enumerate(part.infinite) if n}]
            for purpose, part in self.spent.items()
            if part.count
        }
        states = {state: count for state, count in self.states.items() if count}
        document = {"orders": ORDERS_VERSION, "spent": spent, "states": states, "overruns": self.overruns}
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, *, budget: str) -> Totals:
        """Return what `to_json` wrote.

        Args:
            text: the stored text.
            budget: name of the budget, for messages.

        Raises:
            LedgerError: it is damaged, or was stored for other orders.
        """
        try:
            document = json_value(text)
            if document["orders"] != ORDERS_VERSION:
                raise LedgerError(f"budget {budget} holds totals that this version cannot add")
            return cls(
                spent={purpose: _sum(*stored) for purpose, stored in document["spent"].items()},
                states={str(state): _count(count) for state, count in document["states"].items()},
                overruns=_count(document["overruns"]),
            )
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise LedgerError(_DAMAGED.format(budget), fix=VERIFY) from error


def sum_of(parts: Iterable[Sum]) -> Sum:
    """Return the sum of sums; exact, so that it does not depend on their order."""
    total = Sum()
    for part in parts:
        total = total + part
    return total


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _sum(count: Any, numbers: Any, infinite: Any) -> Sum:
    if len(numbers) != len(ORDERS) + 2:
        raise ValueError("another number of orders")
    counts = [0] * len(numbers)
    for index, number in infinite.items():
        counts[_count(int(index))] = _count(number)
    return Sum(tuple(map(_count, numbers)), tuple(counts), _count(count))
