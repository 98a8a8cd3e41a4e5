"""What is known of a tensor: whose rows it depends on. No TensorFlow.

Each tensor of a graph is one of five kinds:

- public: depends on constants, weights and keys alone;
- count: depends on the number of rows too, but on nothing in them;
- rows: its slice at each place of one axis depends on one row, and on what is public;
- mixed: some number in it depends on several rows;
- unknown: no rule covers it.

The rows of a tensor lie along one axis of size outer * B * inner: place p belongs to row (p // inner) mod B.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from privacy_pipeline.dp.rowwise.sizes import Count, Dim, depends

UNNAMED = "unnamed"  # the key of what comes of the secret seed, and is not known to equal nothing else


class Kind(Enum):
    """How a tensor depends on the rows of a batch."""

    PUBLIC = "public"
    COUNT = "count"
    ROWS = "rows"
    MIXED = "mixed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Layout:
    """Where the rows lie.

    Attributes:
        axis: the axis, from 0.
        outer: how often all rows follow one another along it.
        inner: how many places of a row follow one another.
    """

    axis: int
    outer: int = 1
    inner: int = 1

    @property
    def size(self) -> Count:
        """Size of the axis."""
        return Count(self.outer * self.inner)


@dataclass(frozen=True)
class Offence:
    """Why an op keeps a tensor from being rows.

    Attributes:
        op: name of the op in the outermost graph.
        type: type of the op.
        reason: one line.
        mixes: whether a rule shows that rows are mixed; otherwise no rule shows that they are not.
    """

    op: str
    type: str
    reason: str
    mixes: bool


@dataclass(frozen=True)
class Value:
    """What is known of a tensor, or of a list of tensors.

    Attributes:
        kind: how it depends on the rows; of a list, how its elements do.
        shape: sizes, None where the rank is not known; of a list, that of an element.
        layout: where the rows lie, for the kind rows.
        content: the numbers themselves, an array of objects, where they are few and known; see `sizes`.
        assumed: an op without a rule lies before it: rows are assumed, and nothing is proven.
        is_list: it is a list of tensors, all of which the other attributes describe.
        empty: a list that nothing was put into yet.
        by_row: a list whose element i is row i.
        offence: why it is mixed or unknown.
        span: each number lies in [b * span, (b + 1) * span) for its row b: an index into rows laid out flat, `span`
            places each; 0 if it is not known. Such numbers depend on the place of a row, and few ops may use them.
        gap: with a span, each number stays in its range if a whole number below this is added; 0 if it is not known.
        bound: each number is a whole number r with 0 <= r < bound; 0 if it is not known.
        key: of a seed or a key that comes of the step's secret seed, which one it is; `UNNAMED` for what else comes of
            it; else empty. What a key draws is as likely at one place as at another; what a constant draws is a number
            that belongs to a place.
        held: of a variable's handle, the shape of the variable; None where it is not known.
        loose: where there is one row, it may lack the axis of the rows.
        exact: its content may decide which branch is taken.
        least: one whole number, of any kind, that is this or more; None if it is not known.
        length: of a list, how many elements it has; None where that is not known.
        unset: a list of which some element may not have been written: read, it is zeros of any shape.
        bare: a list of which perhaps no element was written, or that has none: stacked, it may have any shape.
    """

    kind: Kind
    shape: tuple[Dim, ...] | None = None
    layout: Layout | None = None
    content: Any = field(default=None, compare=False)
    assumed: bool = False
    is_list: bool = False
    empty: bool = False
    by_row: bool = False
    offence: Offence | None = field(default=None, compare=False)
    span: int = 0
    gap: int = 0
    bound: int = 0
    key: str = ""
    held: tuple[Dim, ...] | None = None
    loose: bool = False
    exact: bool = False
    least: int | None = None
    length: int | None = None
    unset: bool = False
    bare: bool = False

    @property
    def rank(self) -> int:
        """Number of axes, of a tensor whose shape is known."""
        return len(self.shape or ())

    def axis(self) -> int:
        """Return the axis of the rows."""
        return self.layout.axis if self.layout is not None else -1


def public(shape: tuple[Dim, ...] | None = None, content: Any = None) -> Value:
    """Return a tensor that depends on no row."""
    return Value(Kind.PUBLIC, shape, content=content)


def rows(shape: tuple[Dim, ...], layout: Layout, **more: Any) -> Value:
    """Return a tensor of rows; its size along the axis follows from the layout."""
    sizes = list(shape)
    sizes[layout.axis] = layout.size
    return Value(Kind.ROWS, tuple(sizes), layout, **more)


def of_content(content: Any, *, exact: bool = False) -> Value:
    """Return a tensor of known numbers: public unless one of them depends on the number of rows."""
    kind = Kind.COUNT if any(depends(number) for number in content.flat) else Kind.PUBLIC
    return Value(kind, tuple(content.shape), content=content, exact=exact)


def hides_count(value: Value) -> bool:
    """Return whether a tensor depends on the number of rows though its known numbers do not show it."""
    return value.kind is Kind.COUNT and value.content is not None and not any(map(depends, value.content.flat))


_ORDER = (Kind.PUBLIC, Kind.COUNT, Kind.ROWS, Kind.UNKNOWN, Kind.MIXED)


def _joined_shape(a: Value, b: Value) -> tuple[Dim, ...] | None:
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return None
    return tuple(left if left == right else None for left, right in zip(a.shape, b.shape, strict=True))


def _same_content(a: Any, b: Any) -> bool:
    if a is None or b is None or a.shape != b.shape:
        return False
    return all(left == right for left, right in zip(a.flat, b.flat, strict=True))


def same(a: Value, b: Value) -> bool:
    """Return whether the same is known of two tensors, their numbers included."""
    return a == b and ((a.content is None and b.content is None) or _same_content(a.content, b.content))


def join(a: Value, b: Value) -> Value | None:
    """Return what is known of a tensor that is one or the other; None where the two do not fit together."""
    both: dict[str, Any] = {
        "assumed": a.assumed or b.assumed,
        "by_row": a.by_row or b.by_row,
        "length": a.length if a.length == b.length else None,
        "unset": a.unset or b.unset,
        "bare": a.bare or b.bare,
        "loose": a.loose or b.loose,
        "held": a.held if a.held == b.held else None,
    }
    if a.empty and b.is_list:
        return replace(b, **both)
    if b.empty and a.is_list:
        return replace(a, **both)
    if a.is_list != b.is_list:
        return None
    worst = max((a, b), key=lambda value: _ORDER.index(value.kind))
    if worst.kind in (Kind.MIXED, Kind.UNKNOWN):
        return Value(worst.kind, _joined_shape(a, b), is_list=a.is_list, offence=worst.offence, **both)
    if worst.kind is Kind.ROWS and (a.kind is not b.kind or a.layout != b.layout or a.span != b.span):
        return None
    shape = _joined_shape(a, b)
    if worst.kind is Kind.ROWS and shape is None:
        return None
    return Value(
        worst.kind,
        shape,
        worst.layout,
        content=a.content if _same_content(a.content, b.content) else None,
        is_list=a.is_list,
        span=a.span,
        bound=max(a.bound, b.bound) if a.bound and b.bound else 0,
        key=a.key if a.key == b.key else UNNAMED,
        exact=a.exact and b.exact,
        **both,
    )
