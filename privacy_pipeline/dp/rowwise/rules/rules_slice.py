"""Rules of slices and of their gradients."""

from __future__ import annotations

from dataclasses import replace

from privacy_pipeline.dp.rowwise.registry import OpCall, Result, rule
from privacy_pipeline.dp.rowwise.sizes import Dim, depends
from privacy_pipeline.dp.rowwise.slicing import Cut, size_of, strided
from privacy_pipeline.dp.rowwise.values import Kind, Value

_TAKES = "it takes single rows, or rows in another order, out of the batch"
_COUNTED = "how much it takes of a row depends on the number of rows"


@rule("StridedSlice")
def strided_slice(call: OpCall) -> Result:
    """All rows, and of each the same part."""
    value = call.inputs[0]
    if value.kind is not Kind.ROWS or value.layout is None or value.shape is None:
        return call.unknown("where it cuts depends on the data")
    cuts = strided(call, value.rank)
    if cuts is None:
        return _moving(call, value)
    own = next(cut for cut in cuts if cut.axis == value.axis())
    if not own.whole(value.shape[value.axis()]):
        return call.mixed(_TAKES)
    if any(depends(end) for cut in cuts if cut is not own for end in (cut.start, cut.stop)):
        return call.unknown(_COUNTED)
    left = [cut for cut in cuts if not cut.single]
    shape = [1 if cut.axis is None else size_of(cut, value.shape[cut.axis]) for cut in left]
    layout = replace(value.layout, axis=left.index(own))
    return call.rows(layout, shape, bound=value.bound)


def _moving(call: OpCall, value: Value) -> Value:
    """Return a place that a loop counts: the masks alone show that all rows are taken."""
    if any(other.kind is not Kind.PUBLIC for other in call.inputs[1:]):
        return call.unknown("where it cuts depends on the data or on the number of rows")
    entries = call.inputs[1].shape
    masks = {name: call.number(f"{name}_mask") for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    if not entries or not isinstance(entries[0], int) or masks["ellipsis"] or masks["new_axis"]:
        return call.unknown("where it cuts is not known")
    axis, steps = value.axis(), call.constant(3)
    if axis < entries[0]:
        whole = masks["begin"] >> axis & 1 and masks["end"] >> axis & 1 and not masks["shrink_axis"] >> axis & 1
        if not whole:
            return call.unknown("where it cuts is not known")
        if steps is None or steps[axis] != 1:
            return call.mixed(_TAKES)
    kept = [place for place in range(value.rank) if not (place < entries[0] and masks["shrink_axis"] >> place & 1)]
    shape: list[Dim] = [None if place < entries[0] else (value.shape or ())[place] for place in kept]
    assert value.layout is not None
    return call.rows(replace(value.layout, axis=kept.index(axis)), shape, bound=value.bound)


@rule("Slice")
def plain_slice(call: OpCall) -> Result:
    """All rows, and of each the same part."""
    value = call.inputs[0]
    starts, counts = (None if one.content is None else list(one.content.reshape(-1)) for one in call.inputs[1:])
    if value.kind is not Kind.ROWS or value.layout is None or value.shape is None:
        return call.unknown("where it cuts depends on the data")
    if starts is None or counts is None:
        return call.unknown("where it cuts is not known")
    axis = value.axis()
    if starts[axis] != 0 or counts[axis] not in (-1, value.shape[axis]):
        return call.mixed(_TAKES)
    others = zip(call.inputs[1:], (starts, [*counts[:axis], *counts[axis + 1 :]]), strict=True)
    # What is not known of public numbers depends on no row.
    if any(value.kind is not Kind.PUBLIC and any(map(depends, numbers)) for value, numbers in others):
        return call.unknown(_COUNTED)
    shape: list[Dim] = []
    for size, start, count in zip(value.shape, starts, counts, strict=True):
        if isinstance(count, int) and count >= 0:
            shape.append(count)
        else:
            known = count == -1 and isinstance(size, int) and isinstance(start, int)
            shape.append(size - start if known else None)
    return call.rows(value.layout, shape)


@rule("StridedSliceGrad")
def strided_slice_gradient(call: OpCall) -> Result:
    """Return the slice's gradient put back, with zeros around it."""
    sizes, gradient = call.constant(0), call.inputs[4]
    if gradient.kind is not Kind.ROWS or gradient.layout is None or sizes is None:
        return call.unknown("its shape is not known")
    cuts = strided(call, len(sizes), first=1)
    if cuts is None:
        return call.unknown("where it cuts is not known")
    left = [cut for cut in cuts if not cut.single]
    if gradient.axis() >= len(left):
        return call.unknown("its shape is not known")
    own: Cut = left[gradient.axis()]
    if own.axis is None or sizes[own.axis] != gradient.layout.size or not own.whole(sizes[own.axis]):
        return call.mixed("it puts rows at the places of others")
    if any(depends(end) for cut in cuts if cut is not own for end in (cut.start, cut.stop)):
        return call.unknown(_COUNTED)
    return call.rows(replace(gradient.layout, axis=own.axis), sizes)
