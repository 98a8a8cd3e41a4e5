"""Known numbers of tensors, and the registry of ops that compute known numbers from known numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from privacy_pipeline.dp.rowwise.bodies import Node
from privacy_pipeline.dp.rowwise.registry import OpCall
from privacy_pipeline.dp.rowwise.sizes import LARGEST, OPAQUE, Count
from privacy_pipeline.dp.rowwise.values import Kind

MOST = 4096  # numbers of an array that are followed


def array(numbers: Sequence[Any], shape: Sequence[int] | None = None) -> Any:
    """Return an array of objects."""
    made = np.empty(len(numbers), dtype=object)
    for place, number in enumerate(numbers):
        made[place] = number
    return made if shape is None else made.reshape(shape)


def parsed(node: Node) -> Any:
    """Return whole numbers or truth values of a constant; None where they are many, and for other types.

    Floats are not followed: TensorFlow rounds, flushes and compares them in ways of its own (sums by blocks, denormal
    numbers, NaN), and a branch must not be chosen by what another arithmetic gives.
    """
    from tensorflow import dtypes, make_ndarray

    proto = node.attr["value"].tensor
    kind = dtypes.as_dtype(proto.dtype)
    if not (kind.is_integer or kind.is_bool):
        return None
    if int(np.prod([dim.size for dim in proto.tensor_shape.dim])) > MOST:
        return None
    values = make_ndarray(proto)
    return array(values.reshape(-1).tolist(), values.shape)


Compute = Callable[[OpCall, list[Any]], Any]
COMPUTE: dict[str, Compute] = {}


def computes(*types: str) -> Callable[[Compute], Compute]:
    """Register a function that gives known outputs of ops from known inputs, as arrays; None where it cannot."""

    def register(function: Compute) -> Compute:
        COMPUTE.update(dict.fromkeys(types, function))
        return function

    return register


def is_computed(op_type: str) -> bool:
    """Return whether ops of a type compute sizes from sizes."""
    return op_type in COMPUTE


def computed(call: OpCall) -> list[Any] | None:
    """Return outputs of an op as arrays of known numbers; None where they are not known."""
    function = COMPUTE.get(call.type)
    arrays = [value.content for value in call.inputs]
    if call.type == "Pack":
        arrays = _scalars(call, arrays)
    if function is None or any(value is None for value in arrays):
        return None
    try:
        found = function(call, arrays)
    except (ValueError, IndexError, TypeError):  # shapes that do not fit, or OPAQUE where a number is needed
        return None
    outputs = found if isinstance(found, list) else [found]
    if any(one is None for one in outputs):
        return None
    outputs = [_as_computed(call, one) for one in outputs]
    if any(one is None for one in outputs):
        return None
    held = [np.asarray(one, dtype=object) for one in outputs]
    return held if all(one.size <= MOST for one in held) else None


def _scalars(call: OpCall, arrays: list[Any]) -> list[Any]:
    """Return public scalars, with `OPAQUE` for a whole number that is not known, where another one is."""
    public = all(value.kind is Kind.PUBLIC and not value.key for value in call.inputs)
    if not call.whole_numbers() or not public or all(one is None for one in arrays):
        return arrays
    pairs = zip(arrays, call.inputs, strict=True)
    return [array([OPAQUE], []) if one is None and value.shape == () else one for one, value in pairs]


_WHOLE = {"int32": 2**31, "int64": 2**63}


def _as_computed(call: OpCall, numbers: Any) -> Any:
    """Return numbers as the op's type holds them; None where it would wrap them around, or is not of whole numbers."""
    attr = next((name for name in ("DstT", "T", "Tidx", "out_type") if name in call.node.attr), None)
    return held_by(call, attr, numbers)


def held_by(call: OpCall, attr: str | None, numbers: Any) -> Any:
    """Return numbers as the type that an attribute names holds them (`int32` without one); see `_as_computed`."""
    from tensorflow import dtypes

    kind = dtypes.as_dtype(call.node.attr[attr].type) if attr else dtypes.int32
    truth = all(isinstance(number, bool) or number is OPAQUE for number in np.asarray(numbers, object).reshape(-1))
    if not truth and kind.name not in _WHOLE:
        return None
    most = _WHOLE.get(kind.name, 0)
    held = elementwise(lambda number: _not_wrapped(number, most), [np.asarray(numbers, dtype=object)])
    return None if any(number is None for number in held.reshape(-1)) else held


def _not_wrapped(number: Any, most: int) -> Any:
    """Return the number if it is held by its type for each number of rows there can be; else None."""
    if isinstance(number, bool) or number is OPAQUE:
        return number
    if isinstance(number, Count):
        return number if abs(number.coefficient) * LARGEST**number.power < most else OPAQUE
    return number if -most <= number < most else None


def elementwise(function: Callable[..., Any], arrays: Sequence[Any]) -> Any:
    """Return an array of what a function gives for the numbers of arrays, spread to one shape."""
    spread = np.broadcast_arrays(*arrays)
    flat = [function(*numbers) for numbers in zip(*(one.reshape(-1) for one in spread), strict=True)]
    return array(flat, spread[0].shape)


def axes_of(call: OpCall, rank: int, numbers: Any) -> tuple[int, ...]:
    """Return axes that `numbers` hold, counted from the front."""
    return tuple(int(axis) % rank for axis in numbers.reshape(-1)) if rank else ()
