"""Sizes that ops compute: shapes, axes, paddings, as numbers that may depend on the number of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from privacy_pipeline.dp.rowwise import sizes
from privacy_pipeline.dp.rowwise.bodies import Node
from privacy_pipeline.dp.rowwise.registry import OpCall, rule
from privacy_pipeline.dp.rowwise.sizes import LARGEST, OPAQUE, Count, depends
from privacy_pipeline.dp.rowwise.slicing import index_of, strided
from privacy_pipeline.dp.rowwise.values import UNNAMED, Kind, Layout, Value, hides_count, of_content, public

_MOST = 4096  # numbers of an array that are followed


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
    if int(np.prod([dim.size for dim in proto.tensor_shape.dim])) > _MOST:
        return None
    values = make_ndarray(proto)
    return array(values.reshape(-1).tolist(), values.shape)


# --- ops that compute sizes from sizes -----------------------------------------------------------------------------

_Compute = Callable[[OpCall, list[Any]], Any]
_COMPUTE: dict[str, _Compute] = {}


def _computes(*types: str) -> Callable[[_Compute], _Compute]:
    def register(function: _Compute) -> _Compute:
        _COMPUTE.update(dict.fromkeys(types, function))
        return function

    return register


def is_computed(op_type: str) -> bool:
    """Return whether ops of a type compute sizes from sizes."""
    return op_type in _COMPUTE


def computed(call: OpCall) -> list[Any] | None:
    """Return outputs of an op as arrays of known numbers; None where they are not known."""
    function = _COMPUTE.get(call.type)
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
    return held if all(one.size <= _MOST for one in held) else None


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
    return _held_by(call, attr, numbers)


def _held_by(call: OpCall, attr: str | None, numbers: Any) -> Any:
    from tensorflow import dtypes

    kind = dtypes.as_dtype(call.node.attr[attr].type) if attr else dtypes.int32
    truth = all(isinstance(number, bool) or number is OPAQUE for number in np.asarray(numbers, object).reshape(-1))
    if not truth and kind.name not in _WHOLE:
        return None
    most = _WHOLE.get(kind.name, 0)
    held = _elementwise(lambda number: _not_wrapped(number, most), [np.asarray(numbers, dtype=object)])
    return None if any(number is None for number in held.reshape(-1)) else held


def _not_wrapped(number: Any, most: int) -> Any:
    """Return the number if it is held by its type for each number of rows there can be; else None."""
    if isinstance(number, bool) or number is OPAQUE:
        return number
    if isinstance(number, Count):
        return number if abs(number.coefficient) * LARGEST**number.power < most else OPAQUE
    return number if -most <= number < most else None


def _truncated(a: Any, b: Any) -> Any:
    """Return the quotient rounded to zero: the same as rounded down where neither is negative."""
    if any(not depends(one) and one < 0 for one in (a, b)):
        raise ValueError
    return sizes.divide(a, b)


def _elementwise(function: Callable[..., Any], arrays: Sequence[Any]) -> Any:
    spread = np.broadcast_arrays(*arrays)
    flat = [function(*numbers) for numbers in zip(*(one.reshape(-1) for one in spread), strict=True)]
    return array(flat, spread[0].shape)


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


def _by_numbers(function: Callable[..., Any]) -> _Compute:
    return lambda call, arrays: _elementwise(function, arrays)


_COMPUTE.update({op_type: _by_numbers(function) for op_type, function in _NUMBERS.items()})

# What may decide which branch is taken: sizes and what is asked of them. All else may set which axis an op works along,
# where a mistake makes a tensor of another shape, but not which side of a branch is left out of the proof.
DECIDING = frozenset(
    {
        *("StridedSlice", "Pack", "Cast", "Identity", "Prod", "All", "Any"),
        *(kind for kind in _NUMBERS if kind not in ("SelectV2", "OnesLike", "ZerosLike")),
    }
)


@_computes("Select")
def _select_v1(call: OpCall, arrays: list[Any]) -> Any:
    """Return the choice for one shape or a scalar; a vector would choose whole rows, which no honest size needs."""
    condition, a, b = arrays
    same = condition.shape == a.shape == b.shape
    return _elementwise(_select, arrays) if same or (not condition.ndim and a.shape == b.shape) else None


@_computes("Equal", "NotEqual")
def _equal(call: OpCall, arrays: list[Any]) -> Any:
    """Return the comparison; None where the op may give one truth value for shapes that do not fit."""
    return None if call.takes_misfits() else _elementwise(_NUMBERS[call.type], arrays)


@_computes("Cast")
def _cast(call: OpCall, arrays: list[Any]) -> Any:
    from tensorflow import dtypes

    to = dtypes.as_dtype(call.node.attr["DstT"].type)
    if not (to.is_bool or to.is_integer):
        return None

    def convert(number: Any) -> Any:
        if depends(number):
            return number if not to.is_bool else OPAQUE
        return bool(number) if to.is_bool else int(number)

    return _elementwise(convert, arrays)


def _axes(call: OpCall, rank: int, numbers: Any) -> tuple[int, ...]:
    return tuple(int(axis) % rank for axis in numbers.reshape(-1)) if rank else ()


def _reducer(function: Callable[[Any, Any], Any], start: Any) -> _Compute:
    def run(call: OpCall, arrays: list[Any]) -> Any:
        values, numbers = arrays
        axes = _axes(call, values.ndim, numbers)
        kept = [axis for axis in range(values.ndim) if axis not in axes]
        moved = np.transpose(values, [*kept, *axes])
        flat = moved.reshape([int(np.prod([values.shape[axis] for axis in kept])), -1])
        found = array([reduce(function, row, start) if start is not None else reduce(function, row) for row in flat])
        shape = [1 if axis in axes else size for axis, size in enumerate(values.shape)]
        return found.reshape(shape if call.flag("keep_dims") else [values.shape[axis] for axis in kept])

    return run


_COMPUTE["Prod"] = _reducer(sizes.multiply, 1)
_COMPUTE["Sum"] = _reducer(sizes.add, 0)
_COMPUTE["Max"] = _reducer(sizes.maximum, None)
_COMPUTE["Min"] = _reducer(sizes.minimum, None)
_COMPUTE["All"] = _reducer(_logical(lambda a, b: a and b), True)
_COMPUTE["Any"] = _reducer(_logical(lambda a, b: a or b), False)


@_computes("Pack")
def _pack(call: OpCall, arrays: list[Any]) -> Any:
    return np.stack(arrays, axis=call.number("axis"))


@_computes("Unpack")
def _unpack(call: OpCall, arrays: list[Any]) -> Any:
    return [np.asarray(one, dtype=object) for one in np.moveaxis(arrays[0], call.number("axis"), 0)]


@_computes("ConcatV2")
def _concat(call: OpCall, arrays: list[Any]) -> Any:
    return np.concatenate(arrays[:-1], axis=int(arrays[-1].item()))


@_computes("Split")
def _split(call: OpCall, arrays: list[Any]) -> Any:
    return list(np.split(arrays[1], call.number("num_split"), axis=int(arrays[0].item())))


@_computes("GatherV2")
def _gather(call: OpCall, arrays: list[Any]) -> Any:
    if call.number("batch_dims"):
        return None
    axis, places = int(arrays[2].item()), arrays[1].astype(np.int64)
    if places.size and not 0 <= places.min() <= places.max() < arrays[0].shape[axis]:
        return None  # compiled by XLA it takes the nearest, on a GPU a 0
    return np.take(arrays[0], places, axis=axis)


@_computes("Reshape")
def _reshape(call: OpCall, arrays: list[Any]) -> Any:
    return arrays[0].reshape([int(size) for size in arrays[1].reshape(-1)])


@_computes("ExpandDims")
def _expand(call: OpCall, arrays: list[Any]) -> Any:
    return np.expand_dims(arrays[0], int(arrays[1].item()))


@_computes("Squeeze")
def _squeeze(call: OpCall, arrays: list[Any]) -> Any:
    axes = call.numbers("squeeze_dims")
    return np.squeeze(arrays[0], axis=tuple(axes) if axes else None)


@_computes("Transpose")
def _transpose(call: OpCall, arrays: list[Any]) -> Any:
    return np.transpose(arrays[0], [int(axis) for axis in arrays[1].reshape(-1)])


@_computes("ReverseV2")
def _reverse(call: OpCall, arrays: list[Any]) -> Any:
    return np.flip(arrays[0], _axes(call, arrays[0].ndim, arrays[1]))


@_computes("StridedSlice")
def _strided_slice(call: OpCall, arrays: list[Any]) -> Any:
    plan = strided(call, arrays[0].ndim)
    return None if plan is None else np.asarray(arrays[0][index_of(plan)], dtype=object)


@_computes("Slice")
def _slice(call: OpCall, arrays: list[Any]) -> Any:
    starts, counts = ([int(number) for number in one.reshape(-1)] for one in arrays[1:])
    pairs = zip(starts, counts, strict=True)
    return arrays[0][tuple(slice(start, None if count < 0 else start + count) for start, count in pairs)]


@_computes("Range")
def _range(call: OpCall, arrays: list[Any]) -> Any:
    start, end, step = (one.item() for one in arrays)
    if any(depends(number) for number in (start, end, step)) or not step:
        return None
    return array(np.arange(start, end, step).tolist())


@_computes("Fill")
def _fill(call: OpCall, arrays: list[Any]) -> Any:
    shape = [int(size) for size in arrays[0].reshape(-1)]
    return array([arrays[1].item()] * int(np.prod(shape)), shape) if np.prod(shape) <= _MOST else None


@_computes("BroadcastTo")
def _broadcast_to(call: OpCall, arrays: list[Any]) -> Any:
    return np.broadcast_to(arrays[0], [int(size) for size in arrays[1].reshape(-1)])


@_computes("Tile")
def _tile(call: OpCall, arrays: list[Any]) -> Any:
    return np.tile(arrays[0], [int(size) for size in arrays[1].reshape(-1)])


@_computes("DynamicStitch", "ParallelDynamicStitch")
def _stitch(call: OpCall, arrays: list[Any]) -> Any:
    half = len(arrays) // 2
    if any(one.shape != other.shape for one, other in zip(arrays[:half], arrays[half:], strict=True)):
        return None
    places = [int(place) for one in arrays[:half] for place in one.reshape(-1)]
    numbers = [number for one in arrays[half:] for number in one.reshape(-1)]
    held = dict(zip(places, numbers, strict=True))
    twice = len(held) < len(places)
    if sorted(held) != list(range(len(held))) or (twice and call.type == "ParallelDynamicStitch"):
        return None  # a gap holds anything; the last number counts, unless several threads write
    return array([held[place] for place in range(len(held))])


@_computes("InvertPermutation")
def _invert(call: OpCall, arrays: list[Any]) -> Any:
    return array(np.argsort([int(number) for number in arrays[0]]).tolist())


@_computes("Shape", "Size", "Rank", "ShapeN")
def _shape(call: OpCall, arrays: list[Any]) -> Any:
    return None  # `shape_of` covers these, for inputs of every kind


@_computes("ConcatOffset")
def _concat_offset(call: OpCall, arrays: list[Any]) -> Any:
    axis, shapes = int(arrays[0].item()), arrays[1:]
    found: list[Any] = []
    start: sizes.Number = 0
    for shape in shapes:
        offset: list[Any] = [0] * shape.size
        offset[axis] = start
        found.append(array(offset))
        start = sizes.add(start, shape[axis])
    return found


@_computes("BroadcastArgs")
def _broadcast_args(call: OpCall, arrays: list[Any]) -> Any:
    left, right = _aligned(arrays[0], arrays[1])
    return array([b if a == 1 else a for a, b in zip(left, right, strict=True)])


@_computes("BroadcastGradientArgs")
def _broadcast_gradient_args(call: OpCall, arrays: list[Any]) -> Any:
    """Return the axes along which each of two shapes was spread; a `Count` stands for sizes other than 1.

    Where there is one row, the axis of rows has size 1 too, and a sum along it changes nothing.
    """
    left, right = _aligned(arrays[0], arrays[1])
    if OPAQUE in left or OPAQUE in right:
        return None
    if arrays[0].shape == arrays[1].shape and all(a == b for a, b in zip(left, right, strict=True)):
        return [array([]), array([])]
    # Where both sizes are 1 the sum is over one number.
    return [array([axis for axis, size in enumerate(side) if size == 1]) for side in (left, right)]


def _aligned(a: Any, b: Any) -> tuple[list[Any], list[Any]]:
    rank = max(a.size, b.size)
    return [1] * (rank - a.size) + list(a), [1] * (rank - b.size) + list(b)


# --- shapes of tensors, and tensors that are made from shapes ------------------------------------------------------


@rule("Shape", "ShapeN", "Size", "Rank", raw=True)
def shape_of(call: OpCall) -> list[Value]:
    """Sizes are public but for that of the axis of rows."""
    found = []
    for value in call.inputs:
        if value.is_list:
            found.append(call.unknown("it asks for the shape of a list"))
        elif value.kind in (Kind.MIXED, Kind.UNKNOWN):  # the data may decide its size
            found.append(Value(value.kind, call.static(0), offence=value.offence))
        elif value.shape is None or value.loose or hides_count(value):
            found.append(Value(Kind.COUNT, call.static(0)))
        elif call.type == "Rank":
            found.append(of_content(array([len(value.shape)], []), exact=value.content is None or value.exact))
        else:
            numbers = [OPAQUE if size is None else size for size in value.shape]
            asked = array([sizes.product(numbers)], []) if call.type == "Size" else array(numbers)
            held = _held_by(call, "out_type", asked)
            exact = value.content is None or value.exact
            found.append(Value(Kind.COUNT, call.static(0)) if held is None else of_content(held, exact=exact))
    return found


def _rows_of_shape(call: OpCall, numbers: Sequence[Any]) -> Value | None:
    """Return a tensor of one number, or of independent draws, with one axis that is a multiple of the number of
    rows.
    """
    along = [axis for axis, number in enumerate(numbers) if depends(number)]
    if not along:
        return public(tuple(int(number) for number in numbers))
    size = numbers[along[0]]
    if len(along) > 1 or not isinstance(size, Count) or size.power != 1:
        return None
    return call.rows(Layout(along[0], 1, size.coefficient), list(numbers))


def _created(call: OpCall, place: int) -> Value | None:
    numbers = call.constant(place)
    return None if numbers is None else _rows_of_shape(call, numbers)


def _filled(call: OpCall) -> Value | None:
    """Return one number everywhere."""
    return _created(call, 0) if call.inputs[1].kind is Kind.PUBLIC else None


def _drawn(call: OpCall) -> Value | None:
    """Return draws that do not depend on one another, from the step's seed or without any: masks of dropout."""
    if any(value.kind is not Kind.PUBLIC for value in call.inputs[1:]):
        return None
    if call.type.startswith("Stateless") and call.inputs[1].key in ("", UNNAMED):
        return call.unknown("its seed is fixed: what it draws belongs to the place of a row")
    if not draws_alone(call):
        return call.unknown("it draws the numbers that another op draws from the same seed")
    return _created(call, 0)


def is_drawn(op_type: str) -> bool:
    """Return whether ops of a type draw from a seed that they are given."""
    return op_type.startswith("Stateless") and CREATORS.get(op_type) is _drawn


def draws_alone(call: OpCall) -> bool:
    """Return whether nothing else is drawn from the op's seed, or the same; for a public seed it does not matter."""
    if not call.type.startswith("Stateless") or not any(value.key for value in call.inputs):
        return True
    shape, key = call.constant(0), call.inputs[1].key
    after = call.inputs[2:]
    if call.type.endswith("V2"):  # a counter goes with the key
        if after[0].key != key:
            return False
        after = after[1:]
    if shape is None or key in ("", UNNAMED) or any(value.key for value in after):
        return False
    numbers = [None if value.content is None else list(value.content.flat) for value in after]
    kind = call.node.attr["dtype"].type
    return call.evaluator.drawn(key, f"{call.type} {kind} {list(map(str, shape))} {numbers}")


def _spread(call: OpCall) -> Value | None:
    """Return a public tensor that is spread along the axis of rows: of size 1 there, or of fewer axes."""
    value, numbers = call.inputs[0], call.constant(1)
    if value.kind is not Kind.PUBLIC or value.shape is None or numbers is None:
        return None
    made = _rows_of_shape(call, numbers)
    if made is None or made.layout is None:
        return made
    place = made.layout.axis - (len(numbers) - value.rank)
    return made if place < 0 or value.shape[place] == 1 else None


def _tiled(call: OpCall) -> Value | None:
    value, numbers = call.inputs[0], call.constant(1)
    if value.kind is not Kind.PUBLIC or value.shape is None or numbers is None or None in value.shape:
        return None
    along = [axis for axis, number in enumerate(numbers) if depends(number)]
    if along and value.shape[along[0]] != 1:
        return None
    pairs = zip(value.shape, numbers, strict=True)
    return _rows_of_shape(call, [sizes.multiply(a, b) for a, b in pairs if a is not None])


def _counted_up(call: OpCall) -> Value | None:
    """Return whole numbers from 0 in equal steps, a fixed number of them a row: places of rows."""
    numbers = [call.constant(place) for place in range(3)]
    if any(one is None for one in numbers) or not call.whole_numbers("Tidx"):
        return None
    start, end, step = (one[0] for one in numbers if one is not None)
    many = sizes.divide(end, step)
    if start != 0 or not isinstance(step, int) or step < 1 or not isinstance(many, Count) or many.power != 1:
        return None
    own = many.coefficient
    return call.rows(Layout(0, 1, own), [many], span=own * step, gap=step)


CREATORS: dict[str, Callable[[OpCall], Value | None]] = {
    "Fill": _filled,
    "BroadcastTo": _spread,
    "Tile": _tiled,
    "Range": _counted_up,
    "StatelessRandomUniform": _drawn,
    "StatelessRandomUniformV2": _drawn,
    "StatelessRandomUniformIntV2": _drawn,
    "StatelessRandomUniformFullInt": _drawn,
    "StatelessRandomUniformFullIntV2": _drawn,
    "StatelessRandomNormal": _drawn,
    "StatelessRandomNormalV2": _drawn,
    "StatelessTruncatedNormal": _drawn,
    "StatelessTruncatedNormalV2": _drawn,
    "RandomUniform": _drawn,
    "RandomStandardNormal": _drawn,
    "TruncatedNormal": _drawn,
}
