"""Rules of look-ups: gathers, scatters, tables, one-hot codes."""

from __future__ import annotations

from dataclasses import replace

from privacy_pipeline.dp.rowwise.registry import OpCall, Result, rule
from privacy_pipeline.dp.rowwise.sizes import Count, Dim, depends
from privacy_pipeline.dp.rowwise.values import Kind, Layout, Value

_OTHERS = "it takes rows by a place in the batch"


@rule("ResourceGather")
def resource_gather(call: OpCall) -> Result:
    """Rows of a variable, by indices of each row of the batch."""
    indices = call.inputs[1]
    if indices.kind is not Kind.ROWS or indices.layout is None or call.number("batch_dims"):
        return call.unknown("no rule covers this form of the op")
    return call.rows(indices.layout)


@rule("GatherV2")
def gather(call: OpCall) -> Result:
    """Public values by indices of rows, rows by public indices, or each row by its own indices."""
    values, indices, numbers = call.inputs[0], call.inputs[1], call.constant(2)
    if numbers is None or values.shape is None or indices.shape is None:
        return call.unknown("its axis is not known")
    if values.span or depends(numbers[0]):
        return call.unknown("it computes with the number or the place of rows")
    axis, batch = int(numbers[0]) % max(1, values.rank), call.number("batch_dims")
    batch = batch % indices.rank if batch < 0 else batch
    if any(value.kind is Kind.COUNT for value in (values, indices)):
        return call.unknown("it computes with the number or the place of rows")
    shape = [*values.shape[:axis], *indices.shape[batch:], *values.shape[axis + 1 :]]
    if values.kind is not Kind.ROWS:
        if indices.span:
            return call.mixed("its values depend on the place of a row in the batch")
        if indices.axis() < batch:
            if values.shape[indices.axis()] != 1:
                return call.mixed("its values depend on the place of a row in the batch")
            return call.unknown("no rule covers this form of the op")
        return call.rows(_moved(indices, axis + indices.axis() - batch), shape)
    if indices.kind is not Kind.ROWS:
        if values.axis() == axis:
            return call.mixed(_OTHERS)
        if values.axis() < batch:
            return call.mixed("its values depend on the place of a row in the batch")
        place = values.axis() if values.axis() < axis else values.axis() + indices.rank - batch - 1
        return call.rows(_moved(values, place), shape)
    if indices.span:
        return _flat(call, values, indices, axis, batch, shape)
    if values.axis() == indices.axis() < batch and values.layout == indices.layout:
        return call.rows(values.layout or Layout(0), shape)
    return call.mixed(_OTHERS if values.axis() == axis else "it puts every row together with every other row")


def _flat(call: OpCall, values: Value, indices: Value, axis: int, batch: int, shape: list[Dim]) -> Result:
    """Return rows laid out flat along the first axis, by indices that stay within each row's places."""
    own = values.layout is not None and (values.layout.outer, values.layout.inner) == (1, indices.span)
    if axis or batch or values.axis() != 0 or not own:
        return call.unknown("it computes with the place of rows")
    return call.rows(_moved(indices, indices.axis()), shape)


def _moved(value: Value, axis: int) -> Layout:
    return replace(value.layout or Layout(0), axis=axis)


@rule("GatherNd", "ResourceGatherNd")
def gather_nd(call: OpCall) -> Result:
    """Public values by indices of rows, or rows by public indices that leave their axis whole."""
    values, indices = call.inputs
    if values.kind is not Kind.ROWS:
        if values.kind is Kind.PUBLIC and indices.kind is Kind.ROWS and indices.axis() < indices.rank - 1:
            if call.type == "GatherNd" and values.shape is None:
                return call.unknown("a shape is not known")
            return call.rows(indices.layout or Layout(0))
        return call.unknown("no rule covers this form of the op")
    depth = indices.shape[-1] if indices.shape else None
    if indices.kind is Kind.PUBLIC and isinstance(depth, int) and depth <= values.axis():
        return call.rows(_moved(values, indices.rank - 1 + values.axis() - depth))
    return call.unknown("it computes with the place of rows")


@rule("ScatterNd", "UnsortedSegmentSum")
def scatter(call: OpCall) -> Result:
    """Values added up at indices that stay within each row's places: what gathers and sorts have for gradients."""
    nd = call.type == "ScatterNd"
    indices, values = (call.inputs[0], call.inputs[1]) if nd else (call.inputs[1], call.inputs[0])
    numbers = call.constant(2)
    if not nd and indices.kind is Kind.PUBLIC:
        return _added_in_each_row(call, values, indices)
    if values.kind is not Kind.ROWS or indices.kind is not Kind.ROWS or values.layout is None:
        return call.unknown("no rule covers this form of the op")
    if values.span:
        return call.unknown("it computes with the place of rows")
    depth = indices.shape[-1] if nd and indices.shape else 1
    flat = indices.axis() == values.axis() == 0 and indices.rank == (2 if nd else 1) and depth == 1
    if not flat or not indices.span or indices.layout != values.layout or values.layout.outer != 1:
        return call.unknown("it adds values up at places that the data names")
    if numbers is None or numbers[0] != Count(indices.span):
        return call.unknown("its shape is not known")
    rest = list((values.shape or ())[1:])
    return call.rows(Layout(0, 1, indices.span), [numbers[0], *rest])


def _added_in_each_row(call: OpCall, values: Value, places: Value) -> Value:
    """Return parts of each row added up at public places: what a gather of public columns has for a gradient."""
    many = call.inputs[2]
    behind = values.axis() - places.rank  # the axes of the places are the first ones of the values
    if values.kind is not Kind.ROWS or values.layout is None or places.shape is None or many.kind is not Kind.PUBLIC:
        return call.unknown("no rule covers this form of the op")
    if values.span:
        return call.unknown("it computes with the place of rows")
    if behind < 0:
        return call.mixed("it adds rows up")
    number = None if many.content is None else many.content.item()
    rest = list((values.shape or ())[places.rank :])
    return call.rows(_moved(values, 1 + behind), [number if type(number) is int else None, *rest])


@rule("OneHot")
def one_hot(call: OpCall) -> Result:
    """Return a code for each index."""
    indices, depth = call.inputs[0], call.constant(1)
    if indices.kind is not Kind.ROWS or indices.layout is None or indices.shape is None or depth is None:
        return call.unknown("its depth or its values depend on the data")
    if any(value.kind is not Kind.PUBLIC for value in call.inputs[1:]):
        return call.unknown("its depth or its values depend on the data")
    place = call.number("axis") % (indices.rank + 1)
    size: Dim = depth[0] if isinstance(depth[0], int) else None
    shape = [*indices.shape[:place], size, *indices.shape[place:]]
    return call.rows(_moved(indices, indices.axis() + (place <= indices.axis())), shape)


@rule("LookupTableFindV2")
def table_find(call: OpCall) -> Result:
    """Values of a table that no op writes, by the keys of each row."""
    keys, default = call.inputs[1:]
    if keys.kind is not Kind.ROWS or keys.layout is None or default.kind is not Kind.PUBLIC:
        return call.unknown("its default depends on the data")
    return call.rows(keys.layout, keys.shape)


@rule("RandomUniform", "RandomStandardNormal", "TruncatedNormal", "RandomUniformInt")
def unkeyed_draw(call: OpCall) -> Result:
    """Draws of a public shape; `contents.creators` covers those with one number or more for each row."""
    if call.with_rows():
        return call.unknown("its shape depends on the data")
    return call.public()
