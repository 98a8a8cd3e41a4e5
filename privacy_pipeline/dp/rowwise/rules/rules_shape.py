"""Rules of ops that move numbers without computing: reshapes, transposes, joins, splits, paddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from privacy_pipeline.dp.rowwise import sizes
from privacy_pipeline.dp.rowwise.registry import OpCall, Result, rule
from privacy_pipeline.dp.rowwise.sizes import OPAQUE, Count, Dim, depends
from privacy_pipeline.dp.rowwise.values import Kind, Layout, Value


def _known(shape: Sequence[Dim]) -> bool:
    return all(size is not None for size in shape)


def resolved(numbers: Sequence[Any], total: Any) -> list[Any] | None:
    """Return a target shape with its -1 worked out."""
    free = [place for place, number in enumerate(numbers) if isinstance(number, int) and number == -1]
    found = list(numbers)
    if free:
        rest = sizes.product(number for place, number in enumerate(numbers) if place != free[0])
        found[free[0]] = sizes.divide(total, rest)
    return None if any(number is OPAQUE for number in found) else found


@rule("Reshape")
def reshape(call: OpCall) -> Result:
    """Rows stay rows where each place along one new axis still belongs to one row."""
    value, numbers = call.inputs[0], call.constant(1)
    if value.kind is not Kind.ROWS or value.layout is None or value.shape is None:
        return call.unknown("its shape depends on the data")
    if numbers is None or not _known(value.shape):
        return call.unknown("its shape is not known")
    target = resolved(numbers, sizes.product(value.shape))
    if target is None:
        return call.unknown("its shape is not known")
    return _laid_out(call, value, target)


def _laid_out(call: OpCall, value: Value, target: list[Any]) -> Value:
    shape, layout = value.shape or (), value.layout or Layout(0)
    axis = layout.axis
    outer = sizes.multiply(sizes.product(shape[:axis]), layout.outer)
    inner = sizes.multiply(sizes.product(shape[axis + 1 :]), layout.inner)
    along = [place for place, size in enumerate(target) if depends(size)]
    if len(along) != 1 or not isinstance(target[along[0]], Count) or target[along[0]].power != 1:
        return call.mixed("it lays rows out so that no axis is theirs")
    place = along[0]
    new_outer = sizes.divide(outer, sizes.product(target[:place]))
    new_inner = sizes.divide(inner, sizes.product(target[place + 1 :]))
    exact = (
        isinstance(new_outer, int)
        and isinstance(new_inner, int)
        and sizes.multiply(new_outer, sizes.product(target[:place])) == outer
        and sizes.multiply(new_inner, sizes.product(target[place + 1 :])) == inner
        and Count(new_outer * new_inner) == target[place]
    )
    if not exact:
        return call.mixed("it moves values from one row to another")
    assert isinstance(new_outer, int) and isinstance(new_inner, int)
    if value.span and not new_outer == layout.outer == 1:
        return call.unknown("it computes with the place of rows")
    return call.rows(Layout(place, new_outer, new_inner), target, span=value.span, gap=value.gap, bound=value.bound)


@rule("Transpose", "ConjugateTranspose")
def transpose(call: OpCall) -> Result:
    """Carry the axis of the rows along."""
    value, order = call.inputs[0], call.constant(1)
    if (
        value.kind is not Kind.ROWS
        or value.layout is None
        or value.shape is None
        or order is None
        or any(map(depends, order))
    ):
        return call.unknown("its order of axes is not known")
    axes = [int(axis) % value.rank for axis in order]
    layout = replace(value.layout, axis=axes.index(value.axis()))
    return call.rows(layout, [value.shape[axis] for axis in axes], span=value.span, gap=value.gap, bound=value.bound)


@rule("ExpandDims")
def expand_dims(call: OpCall) -> Result:
    """Return a new axis of size 1."""
    value, axis = call.inputs[0], call.constant(1)
    if value.kind is not Kind.ROWS or value.layout is None or value.shape is None or axis is None or depends(axis[0]):
        return call.unknown("its axis is not known")
    place = int(axis[0]) % (value.rank + 1)
    shape = [*value.shape[:place], 1, *value.shape[place:]]
    layout = replace(value.layout, axis=value.axis() + (place <= value.axis()))
    return call.rows(layout, shape, span=value.span, gap=value.gap, bound=value.bound)


@rule("Squeeze")
def squeeze(call: OpCall) -> Result:
    """Axes of size 1 go; where none is named, all of them, and with one row that of the rows too."""
    value = call.inputs[0]
    if value.layout is None or value.shape is None:
        return call.unknown("a shape is not known")
    gone = [axis % value.rank for axis in call.numbers("squeeze_dims")]
    if not gone:
        return call.unknown("it names no axis: where there is one row, it drops the axis of the rows")
    if value.axis() in gone:
        return call.unknown("it drops the axis of the rows")
    kept = [axis for axis in range(value.rank) if axis not in gone]
    layout = replace(value.layout, axis=kept.index(value.axis()))
    return call.rows(layout, [value.shape[axis] for axis in kept], span=value.span, gap=value.gap, bound=value.bound)


@rule("BroadcastTo")
def broadcast_to(call: OpCall) -> Result:
    """Rows are repeated along other axes; along their own, only a size of 1 could be."""
    value, numbers = call.inputs[0], call.constant(1)
    if value.kind is not Kind.ROWS or value.layout is None or value.shape is None or numbers is None:
        return call.unknown("its shape is not known")
    axis = len(numbers) - value.rank + value.axis()
    if axis < 0 or numbers[axis] not in (value.shape[value.axis()], -1):
        return call.mixed("it spreads a row over the places of other rows")
    if any(depends(number) for place, number in enumerate(numbers) if place != axis):
        return call.mixed("it repeats values of a row as often as there are rows")
    return call.rows(replace(value.layout, axis=axis), numbers)


@rule("Tile")
def tile(call: OpCall) -> Result:
    """Repetition along other axes, or of all rows one after the other."""
    value, numbers = call.inputs[0], call.constant(1)
    if value.kind is not Kind.ROWS or value.layout is None or value.shape is None or numbers is None:
        return call.unknown("how often it repeats is not known")
    times = numbers[value.axis()]
    if any(depends(number) for number in numbers):
        return call.mixed("it repeats rows, or values of a row, as often as there are rows")
    pairs = zip(value.shape, numbers, strict=True)
    grown: list[Dim] = []
    for size, number in pairs:
        product = OPAQUE if size is None else sizes.multiply(size, number)
        grown.append(product if isinstance(product, (int, Count)) else None)
    return call.rows(replace(value.layout, outer=value.layout.outer * times), grown, bound=value.bound)


def _alike(call: OpCall, values: Sequence[Value]) -> Value | None:
    """Return what is wrong with tensors that are to be joined; None if all have rows, and those lie alike."""
    if any(value.shape is None for value in values):
        return call.unknown("a shape is not known")
    if any(value.kind is not Kind.ROWS for value in values):
        if any(value.kind is Kind.COUNT for value in values) and call.whole_numbers():
            return call.unknown("it computes with the number or the place of rows")
        return call.mixed("its values depend on the place of a row in the batch")
    if len({(value.axis(), value.layout.inner) for value in values if value.layout is not None}) > 1:
        return call.mixed("it puts rows together that lie at different places")
    return None


@rule("ConcatV2")
def concat(call: OpCall) -> Result:
    """Return tensors joined along another axis; along their own, all rows follow one another again."""
    values, axis = call.inputs[:-1], call.constant(len(call.inputs) - 1)
    if axis is None or depends(axis[0]):
        return call.unknown("its axis is not known")
    values = [value for value in values if not _adds_nothing(value, int(axis[0]))]
    if not values:
        return call.unknown("its parts are empty")
    bad = _alike(call, values)
    if bad is not None:
        return bad
    layout, rank = values[0].layout or Layout(0), values[0].rank
    place = int(axis[0]) % rank
    shape = list(values[0].shape or ())
    if place == layout.axis:
        outer = sum(value.layout.outer for value in values if value.layout is not None)
        return call.rows(replace(layout, outer=outer), shape)
    if len({value.layout for value in values}) > 1:
        return call.mixed("it puts rows together that lie at different places")
    parts = [(value.shape or ())[place] for value in values]
    shape[place] = sum(part for part in parts if isinstance(part, int)) if _whole(parts) else None
    return call.rows(layout, shape)


def _adds_nothing(value: Value, axis: int) -> bool:
    """Return whether a part that is joined along an axis has size 0 there."""
    return value.shape is not None and -value.rank <= axis < value.rank and value.shape[axis] == 0


def _whole(parts: Sequence[Dim]) -> bool:
    return all(isinstance(part, int) for part in parts)


@rule("Pack", "ParallelConcat")
def pack(call: OpCall) -> Result:
    """Stacked along a new axis."""
    bad = _alike(call, call.inputs)
    if bad is not None:
        return bad
    if call.type == "ParallelConcat" or len({value.layout for value in call.inputs}) > 1:
        return call.mixed("it puts rows together that lie at different places")
    value = call.inputs[0]
    place = call.number("axis") % (value.rank + 1)
    shape = [*(value.shape or ())[:place], len(call.inputs), *(value.shape or ())[place:]]
    layout = value.layout or Layout(0)
    return call.rows(replace(layout, axis=layout.axis + (place <= layout.axis)), shape)


@rule("Unpack")
def unpack(call: OpCall) -> Result:
    """Taken apart along another axis."""
    value = call.inputs[0]
    if value.layout is None or value.shape is None:
        return call.unknown("a shape is not known")
    place = call.number("axis") % value.rank
    if place == value.axis():
        return call.mixed("it takes single rows out of the batch")
    layout = replace(value.layout, axis=value.axis() - (place < value.axis()))
    shape = [size for axis, size in enumerate(value.shape) if axis != place]
    return [call.rows(layout, shape, output=output, bound=value.bound) for output in range(call.node.outputs)]


@rule("Split", "SplitV")
def split(call: OpCall) -> Result:
    """Cut along another axis; along their own only into parts in which all rows are."""
    named = call.type == "Split"
    if not named and call.inputs[1].kind is not Kind.PUBLIC:
        return call.unknown("where it cuts depends on the data or on the number of rows")
    value, axis = call.inputs[1 if named else 0], call.constant(0 if named else 2)
    if value.kind is not Kind.ROWS or value.layout is None or value.shape is None or axis is None or depends(axis[0]):
        return call.unknown("its axis is not known")
    place, count = int(axis[0]) % value.rank, call.node.outputs
    shape, layout = list(value.shape), value.layout
    if place == value.axis():
        if not named or layout.outer % count:
            return call.mixed("it cuts the batch into parts")
        layout = replace(layout, outer=layout.outer // count)
    else:
        size = shape[place]
        shape[place] = size // count if named and isinstance(size, int) else None
    return [call.rows(layout, shape, output=output) for output in range(count)]


@rule("Pad", "PadV2", "MirrorPad", "MirrorPadGrad")
def pad(call: OpCall) -> Result:
    """Pad or cut along other axes."""
    value, numbers = call.inputs[0], call.constant(1)
    if value.kind is not Kind.ROWS or value.layout is None or value.shape is None or numbers is None:
        return call.unknown("how much it pads is not known")
    if call.type == "PadV2" and call.inputs[2].kind is not Kind.PUBLIC:
        return call.unknown("what it pads with depends on the data")
    place = 2 * value.axis()
    if numbers[place] != 0 or numbers[place + 1] != 0:
        return call.mixed("it moves the rows to other places")
    if any(depends(number) for number in numbers):
        return call.unknown("how much it pads depends on the number of rows")
    sign = -1 if call.type == "MirrorPadGrad" else 1
    shape: list[Dim] = []
    for axis, size in enumerate(value.shape):
        before, after = numbers[2 * axis : 2 * axis + 2]
        if axis == value.axis():
            shape.append(size)
        elif isinstance(size, int) and isinstance(before, int) and isinstance(after, int):
            shape.append(size + sign * (before + after))
        else:
            shape.append(None)
    return call.rows(value.layout, shape)


@rule("SpaceToBatchND", "BatchToSpaceND")
def space_and_batch(call: OpCall) -> Result:
    """Blocks of space that lie before the rows: what dilated convolutions do, and take back."""
    value, block = call.inputs[0], call.constant(1)
    if value.layout is None or value.shape is None or block is None or not all(isinstance(one, int) for one in block):
        return call.unknown("its blocks are not known")
    if call.inputs[2].kind is not Kind.PUBLIC:
        return call.unknown("how much it pads depends on the data or on the number of rows")
    if value.axis() != 0:
        return call.mixed("it moves values from one row to another")
    pieces = int(sizes.product(block))  # type: ignore[arg-type]
    if call.type == "SpaceToBatchND":
        layout = replace(value.layout, outer=value.layout.outer * pieces)
    elif value.layout.outer % pieces:
        return call.mixed("it lays rows out side by side in space")
    else:
        layout = replace(value.layout, outer=value.layout.outer // pieces)
    edges, shape = call.constant(2), list(value.shape)
    for place, one in enumerate(block):
        size = shape[place + 1]
        shape[place + 1] = None
        if edges is not None and isinstance(size, int) and all(isinstance(edge, int) for edge in edges):
            both = edges[2 * place] + edges[2 * place + 1]
            shape[place + 1] = (size + both) // one if call.type == "SpaceToBatchND" else size * one - both
    return call.rows(layout, shape)
