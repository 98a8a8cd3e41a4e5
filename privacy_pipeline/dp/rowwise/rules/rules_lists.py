"""Rules of lists of tensors, which loops over time read and fill."""

from __future__ import annotations

from dataclasses import replace

from privacy_pipeline.dp.rowwise.registry import OpCall, Result, rule
from privacy_pipeline.dp.rowwise.rules.rules_elementwise import without_numbers
from privacy_pipeline.dp.rowwise.sizes import Dim
from privacy_pipeline.dp.rowwise.values import UNNAMED, Kind, Value, join


def _list_of(element: Value) -> Value:
    return replace(element, is_list=True, content=None, exact=False)


def _element(value: Value) -> Value:
    return replace(value, is_list=False, empty=False, by_row=False, length=None, unset=False, bare=False)


@rule("TensorListReserve", "EmptyTensorList", raw=True)
def empty_list(call: OpCall) -> Result:
    """Return a list that nothing was put into, of a public length."""
    if call.type == "TensorListReserve" and call.inputs[1].kind is not Kind.PUBLIC:
        return replace(call.unknown("its length depends on the data or on the number of rows"), is_list=True)
    if _shape_of_data(call, 0):
        return replace(call.unknown("the shape of its elements depends on the data"), is_list=True)
    numbers = call.constant(1) if call.type == "TensorListReserve" else None
    length = numbers[0] if numbers is not None and type(numbers[0]) is int and numbers[0] >= 0 else None
    unset = call.type == "TensorListReserve" and length != 0
    return Value(Kind.PUBLIC, is_list=True, empty=True, length=length, unset=unset, bare=True)


@rule("TensorListFromTensor", raw=True)
def list_from_tensor(call: OpCall) -> Result:
    """Return the slices along the first axis; where that is the axis of the rows, element i is row i."""
    value = call.inputs[0]
    if _shape_of_data(call, 1):
        return replace(call.unknown("the shape of its elements depends on the data"), is_list=True)
    first = value.shape[0] if value.shape else None
    length = first if isinstance(first, int) else None
    value = replace(value, bare=not length, key=UNNAMED if value.key else "", held=None)
    if value.kind is not Kind.ROWS or value.layout is None or value.shape is None:
        shape = None if value.shape is None else value.shape[1:]
        return replace(value, is_list=True, content=None, shape=shape, length=length)
    if value.axis() == 0:
        unknown = call.unknown("it takes single rows out of the batch")
        return replace(unknown, is_list=True, by_row=True, shape=value.shape[1:])
    layout = replace(value.layout, axis=value.axis() - 1)
    return _list_of(replace(value, layout=layout, shape=value.shape[1:], length=length))


def _shape_of_data(call: OpCall, place: int) -> bool:
    """Return whether rows decide the shape that a list notes for its elements."""
    return call.inputs[place].kind not in (Kind.PUBLIC, Kind.COUNT)


def _place_known(call: OpCall, place: int) -> Value | None:
    if call.inputs[place].kind is not Kind.PUBLIC:
        return call.unknown("which element it takes depends on the data or on the number of rows")
    return None


@rule("TensorListGetItem", "TensorListPopBack", raw=True)
def list_item(call: OpCall) -> Result:
    """Return an element at a public place."""
    held = call.inputs[0]
    bad = _place_known(call, 1) if call.type == "TensorListGetItem" else None
    if bad is None and held.unset:
        bad = call.unknown("it may read an element that was not written")
    element = bad if bad is not None else _element(held)
    if bad is None and held.empty:
        # What is popped was pushed by the forward loop; a list without elements is never read.
        element = Value(Kind.PUBLIC, call.static(0))
    shorter = replace(held, length=None, bare=True)
    return [shorter, element] if call.type == "TensorListPopBack" else element


@rule("TensorListSetItem", "TensorListPushBack", raw=True)
def list_with_item(call: OpCall) -> Result:
    """Return the list with one more element."""
    held = call.inputs[0]
    item = call.inputs[2 if call.type == "TensorListSetItem" else 1]
    bad = _place_known(call, 1) if call.type == "TensorListSetItem" else None
    if bad is not None:
        return replace(bad, is_list=True)
    # All that is pushed keeps its numbers where they are the same each time: sizes, for the loop of the gradient.
    pushed = replace(item, is_list=True, exact=False) if call.type == "TensorListPushBack" else _list_of(item)
    joined = join(held, pushed)
    if joined is None:
        return replace(call.unknown("its elements differ"), is_list=True)
    sets = call.type == "TensorListSetItem"
    grows = sets and call.flag("resize_if_index_out_of_bounds")  # behind elements that nobody wrote
    length = held.length if sets and not grows else None
    return replace(joined, length=length, unset=held.unset or grows, bare=False)


@rule("TensorListStack", "TensorListConcatV2", "TensorListConcat", raw=True)
def stacked(call: OpCall) -> Result:
    """All elements along a new first axis."""
    held = call.inputs[0]
    if call.type != "TensorListStack":
        return _as_tensors(call, held) if held.kind is not Kind.ROWS else call.unknown("it joins what a loop made")
    if held.empty:
        return call.unknown("nothing is known of its elements")
    if held.kind is not Kind.ROWS or held.layout is None or held.shape is None:
        return replace(_element(without_numbers(held)), shape=call.static(0), least=None)
    if held.bare:
        return call.unknown("perhaps none of its elements was written")
    if held.span and held.unset:
        return call.unknown("it computes with the place of rows")
    inferred = call.static(0)
    first: Dim = inferred[0] if inferred and inferred[0] is not None else held.length
    return call.rows(replace(held.layout, axis=held.axis() + 1), [first, *held.shape], span=held.span)


def _as_tensors(call: OpCall, held: Value) -> Result:
    element = replace(_element(without_numbers(held)), least=None)
    return [replace(element, shape=call.static(output)) for output in range(call.node.outputs)]


@rule("TensorListLength", "TensorListElementShape", raw=True)
def list_sizes(call: OpCall) -> Result:
    """Return the number of elements of a list that is not one of rows; shapes may depend on the number of rows."""
    held = call.inputs[0]
    if held.kind in (Kind.MIXED, Kind.UNKNOWN) and not held.by_row:
        return Value(held.kind, call.static(0), offence=held.offence)
    if call.type == "TensorListLength" and not held.by_row and held.kind in (Kind.PUBLIC, Kind.ROWS):
        return call.public()
    return Value(Kind.COUNT, call.static(0))


@rule("TensorListResize", raw=True)
def resized(call: OpCall) -> Result:
    """Return the same elements, and a public number of others."""
    if call.inputs[1].kind is not Kind.PUBLIC:
        return replace(call.unknown("its length depends on the data or on the number of rows"), is_list=True)
    if call.inputs[0].span:
        return replace(call.unknown("it computes with the place of rows"), is_list=True)
    return replace(without_numbers(call.inputs[0]), length=None, unset=True, bare=True)
