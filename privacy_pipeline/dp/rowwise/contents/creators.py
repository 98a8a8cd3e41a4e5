"""Shapes of tensors, and tensors that are made from shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from privacy_pipeline.dp.rowwise import sizes
from privacy_pipeline.dp.rowwise.contents.computing import array, held_by
from privacy_pipeline.dp.rowwise.registry import OpCall, rule
from privacy_pipeline.dp.rowwise.sizes import OPAQUE, Count, depends
from privacy_pipeline.dp.rowwise.values import UNNAMED, Kind, Layout, Value, hides_count, of_content, public


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
            held = held_by(call, "out_type", asked)
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
