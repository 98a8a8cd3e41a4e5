"""Ops that compute known numbers one by one: arithmetic, comparisons, choices, casts, and reductions."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from privacy_pipeline.dp.rowwise import sizes
from privacy_pipeline.dp.rowwise.contents.computing import COMPUTE, Compute, array, axes_of, computes, elementwise
from privacy_pipeline.dp.rowwise.registry import OpCall
from privacy_pipeline.dp.rowwise.sizes import OPAQUE, depends


def _truncated(a: Any, b: Any) -> Any:
    """Return the quotient rounded to zero: the same as rounded down where neither is negative."""
    if any(not depends(one) and one < 0 for one in (a, b)):
        raise ValueError
    return sizes.divide(a, b)


def _select(condition: Any, a: Any, b: Any) -> Any:
    if condition is OPAQUE:
        return a if a == b and not depends(a) else OPAQUE
    return a if condition else b


def _logical(function: Callable[[bool, bool], bool]) -> Callable[[Any, Any], Any]:
    return lambda a, b: OPAQUE if OPAQUE in (a, b) else function(a, b)


_NUMBERS: dict[str, Callable[..., Any]] = {
    "Add": sizes.add,
    "AddV2": sizes.add,
    "Sub": sizes.subtract,
    "Mul": sizes.multiply,
    "Div": _truncated,
    "FloorDiv": sizes.divide,
    "TruncateDiv": _truncated,
    "FloorMod": sizes.remainder,
    "Maximum": sizes.maximum,
    "Minimum": sizes.minimum,
    "Equal": sizes.equal,
    "NotEqual": lambda a, b: OPAQUE if sizes.equal(a, b) is OPAQUE else not sizes.equal(a, b),
    "Less": sizes.less,
    "Greater": lambda a, b: sizes.less(b, a),
    "GreaterEqual": lambda a, b: OPAQUE if sizes.less(a, b) is OPAQUE else not sizes.less(a, b),
    "LessEqual": lambda a, b: OPAQUE if sizes.less(b, a) is OPAQUE else not sizes.less(b, a),
    "LogicalAnd": _logical(lambda a, b: a and b),
    "LogicalOr": _logical(lambda a, b: a or b),
    "LogicalNot": lambda a: OPAQUE if a is OPAQUE else not a,
    "Neg": sizes.negate,
    "SelectV2": _select,
    "Identity": lambda a: a,
    "StopGradient": lambda a: a,
    "PreventGradient": lambda a: a,
    "Snapshot": lambda a: a,
    "EnsureShape": lambda a: a,
    "OnesLike": lambda a: 1,
    "ZerosLike": lambda a: 0,
}


def _by_numbers(function: Callable[..., Any]) -> Compute:
    return lambda call, arrays: elementwise(function, arrays)


COMPUTE.update({op_type: _by_numbers(function) for op_type, function in _NUMBERS.items()})
# What may decide which branch is taken: sizes and what is asked of them. All else may set which axis an op works along,
# where a mistake makes a tensor of another shape, but not which side of a branch is left out of the proof.
DECIDING = frozenset(
    {
        *("StridedSlice", "Pack", "Cast", "Identity", "Prod", "All", "Any"),
        *(kind for kind in _NUMBERS if kind not in ("SelectV2", "OnesLike", "ZerosLike")),
    }
)


@computes("Select")
def _select_v1(call: OpCall, arrays: list[Any]) -> Any:
    """Return the choice for one shape or a scalar; a vector would choose whole rows, which no honest size needs."""
    condition, a, b = arrays
    same = condition.shape == a.shape == b.shape
    return elementwise(_select, arrays) if same or (not condition.ndim and a.shape == b.shape) else None


@computes("Equal", "NotEqual")
def _equal(call: OpCall, arrays: list[Any]) -> Any:
    """Return the comparison; None where the op may give one truth value for shapes that do not fit."""
    return None if call.takes_misfits() else elementwise(_NUMBERS[call.type], arrays)


@computes("Cast")
def _cast(call: OpCall, arrays: list[Any]) -> Any:
    from tensorflow import dtypes

    to = dtypes.as_dtype(call.node.attr["DstT"].type)
    if not (to.is_bool or to.is_integer):
        return None

    def convert(number: Any) -> Any:
        if depends(number):
            return number if not to.is_bool else OPAQUE
        return bool(number) if to.is_bool else int(number)

    return elementwise(convert, arrays)


def _reducer(function: Callable[[Any, Any], Any], start: Any) -> Compute:
    def run(call: OpCall, arrays: list[Any]) -> Any:
        values, numbers = arrays
        axes = axes_of(call, values.ndim, numbers)
        kept = [axis for axis in range(values.ndim) if axis not in axes]
        moved = np.transpose(values, [*kept, *axes])
        flat = moved.reshape([int(np.prod([values.shape[axis] for axis in kept])), -1])
        found = array([reduce(function, row, start) if start is not None else reduce(function, row) for row in flat])
        shape = [1 if axis in axes else size for axis, size in enumerate(values.shape)]
        return found.reshape(shape if call.flag("keep_dims") else [values.shape[axis] for axis in kept])

    return run


COMPUTE["Prod"] = _reducer(sizes.multiply, 1)
COMPUTE["Sum"] = _reducer(sizes.add, 0)
COMPUTE["Max"] = _reducer(sizes.maximum, None)
COMPUTE["Min"] = _reducer(sizes.minimum, None)
COMPUTE["All"] = _reducer(_logical(lambda a, b: a and b), True)
COMPUTE["Any"] = _reducer(_logical(lambda a, b: a or b), False)
