"""Sizes that may depend on the number of rows: c * B^p, whole numbers, and what is neither. No TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LARGEST = 2**13  # rows of a batch that are worked on at once, at most


@dataclass(frozen=True)
class Count:
    """`coefficient` times the number of rows to a power.

    Every statement about a `Count` holds for each number of rows from 1 to `LARGEST`.

    Attributes:
        coefficient: a whole number other than 0.
        power: 1 or more.
    """

    coefficient: int = 1
    power: int = 1

    def __str__(self) -> str:
        return f"{'' if self.coefficient == 1 else self.coefficient}B{'' if self.power == 1 else f'^{self.power}'}"


class _Opaque:
    """A number that depends on the number of rows in an unknown way."""

    def __repr__(self) -> str:
        return "OPAQUE"


OPAQUE = _Opaque()
Number = int | bool | Count | _Opaque
Dim = int | Count | None  # None: a size that is not known, and does not depend on the data


def depends(number: Number) -> bool:
    """Return whether a number depends on the number of rows."""
    return isinstance(number, (Count, _Opaque))


def _made(coefficient: int, power: int) -> Number:
    if coefficient == 0:
        return 0
    return coefficient if power == 0 else Count(coefficient, power)


def _parts(number: Number) -> tuple[int, int] | None:
    if isinstance(number, _Opaque):
        return None
    return (number.coefficient, number.power) if isinstance(number, Count) else (int(number), 0)


def multiply(a: Number, b: Number) -> Number:
    """Return the product."""
    if a == 0 or b == 0:
        return 0
    left, right = _parts(a), _parts(b)
    if left is None or right is None:
        return OPAQUE
    return _made(left[0] * right[0], left[1] + right[1])


def add(a: Number, b: Number) -> Number:
    """Return the sum."""
    left, right = _parts(a), _parts(b)
    if left is None or right is None:
        return OPAQUE
    if left[0] == 0:
        return b
    if right[0] == 0:
        return a
    return _made(left[0] + right[0], left[1]) if left[1] == right[1] else OPAQUE


def negate(a: Number) -> Number:
    """Return the number with the other sign."""
    return multiply(a, -1)


def subtract(a: Number, b: Number) -> Number:
    """Return the difference."""
    return add(a, negate(b))


def divide(a: Number, b: Number) -> Number:
    """Return the quotient, rounded down; exact where a `Count` is involved."""
    left, right = _parts(a), _parts(b)
    if left is None or right is None or right[0] == 0:
        return OPAQUE
    if left[1] == right[1] == 0:
        return left[0] // right[0]
    exact = left[0] % right[0] == 0 and left[1] >= right[1]
    return _made(left[0] // right[0], left[1] - right[1]) if exact else OPAQUE


def remainder(a: Number, b: Number) -> Number:
    """Return the remainder of `divide`."""
    if not depends(a) and not depends(b):
        return a % b if b != 0 else OPAQUE  # type: ignore[operator]
    quotient = divide(a, b)
    return 0 if not isinstance(quotient, _Opaque) else OPAQUE


def maximum(a: Number, b: Number) -> Number:
    """Return the larger number; a positive `Count` is 1 at least."""
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Count) and one.coefficient > 0 and isinstance(other, (bool, int)) and other <= 1:
            return one
    if depends(a) or depends(b):
        return a if a == b else OPAQUE
    return max(a, b)  # type: ignore[type-var]


def minimum(a: Number, b: Number) -> Number:
    """Return the smaller number; a positive `Count` is its coefficient at least."""
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Count) and isinstance(other, (bool, int)) and one.coefficient >= max(1, other):
            return other
    if depends(a) or depends(b):
        return a if a == b else OPAQUE
    return min(a, b)  # type: ignore[type-var]


def equal(a: Number, b: Number) -> Number:
    """Return whether two numbers are equal for every number of rows; `OPAQUE` where that depends on it."""
    if isinstance(a, _Opaque) or isinstance(b, _Opaque):
        return OPAQUE
    if isinstance(a, Count) and isinstance(b, Count):
        return a == b if a.power == b.power else OPAQUE
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Count):
            return False if one.coefficient > 0 and isinstance(other, int) and other < 1 else OPAQUE
    return a == b


def less(a: Number, b: Number) -> Number:
    """Return whether `a` is less than `b`; `OPAQUE` where that depends on the number of rows."""
    if not depends(a) and not depends(b):
        return a < b  # type: ignore[operator]
    if isinstance(b, Count) and b.coefficient > 0 and isinstance(a, int) and a < 1:
        return True
    if isinstance(a, Count) and a.coefficient > 0 and isinstance(b, int) and b <= 1:
        return False
    return OPAQUE


def product(numbers: Any) -> Number:
    """Return the product of some numbers; of none it is 1."""
    total: Number = 1
    for number in numbers:
        total = multiply(total, number)
    return total
