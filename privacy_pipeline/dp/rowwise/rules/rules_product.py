"""Rules of products: matrices, einsums, convolutions. What is summed over is never the axis of the rows."""

from __future__ import annotations

from dataclasses import replace

from privacy_pipeline.dp.rowwise.registry import OpCall, Result, rule
from privacy_pipeline.dp.rowwise.sizes import Dim, depends
from privacy_pipeline.dp.rowwise.values import Kind, Layout, Value

_SUMMED = "it sums products over the batch"
_PAIRS = "it puts every row together with every other row"


def _sides(call: OpCall) -> tuple[Value, Value, bool, bool]:
    first, second = call.inputs[:2]
    names = ("transpose_a", "transpose_b") if "transpose_a" in call.node.attr else ("adj_x", "adj_y")
    return first, second, call.flag(names[0]), call.flag(names[1])


def _from_end(value: Value, transposed: bool) -> int:
    """Return the axis of the rows, counted from the last one, after the transposition."""
    place = value.rank - 1 - value.axis()
    return 1 - place if transposed and place < 2 else place


@rule("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
def matmul(call: OpCall) -> Result:
    """Rows lie along an axis that the product keeps, or along a batch axis of both sides."""
    first, second, left, right = _sides(call)
    if first.shape is None or second.shape is None:
        return call.unknown("a shape is not known")
    if any(value.kind is Kind.COUNT for value in (first, second)):
        return call.mixed("the number or the place of rows enters its values")
    rank = max(first.rank, second.rank)
    roles = []
    for value, transposed, summed in ((first, left, 0), (second, right, 1)):
        if value.kind is Kind.ROWS:
            place = _from_end(value, transposed)
            if place == summed:
                return call.mixed(_SUMMED)
            roles.append(place)
    if len(set(roles)) > 1 or (len(roles) == 2 and roles[0] < 2):
        return call.mixed(_PAIRS)
    if len(roles) == 2 and not _alike(first, second):
        return call.mixed("it puts rows together that lie at different places")
    place = roles[0]
    if place >= 2 and len(roles) == 1:
        other = second if first.kind is Kind.ROWS else first
        if other.rank > place and (other.shape or ())[other.rank - 1 - place] != 1:
            return call.mixed("its values depend on the place of a row in the batch")
    return call.rows(_layout(first, second, rank - 1 - place), _product_shape(first, second, left, right, rank))


def _alike(first: Value, second: Value) -> bool:
    a, b = first.layout, second.layout
    return a is not None and b is not None and (a.outer, a.inner) == (b.outer, b.inner)


def _layout(first: Value, second: Value, axis: int) -> Layout:
    layout = first.layout if first.kind is Kind.ROWS else second.layout
    return replace(layout or Layout(0), axis=axis)


def _product_shape(first: Value, second: Value, left: bool, right: bool, rank: int) -> list[Dim]:
    a, b = first.shape or (), second.shape or ()
    batch: list[Dim] = [1] * (rank - 2)
    for shape in (a[:-2], b[:-2]):
        for place, size in enumerate(shape, start=rank - 2 - len(shape)):
            if size != 1:
                batch[place] = size
    return [*batch, a[-1] if left else a[-2], b[-2] if right else b[-1]]


def _terms(call: OpCall) -> tuple[list[str], str] | None:
    """Return an einsum's terms, with dots replaced by capital letters that it does not use; None if it has others."""
    equation = call.text("equation").replace(" ", "")
    if "->" not in equation or any(value.shape is None for value in call.inputs):
        return None
    left, right = equation.split("->")
    free = [letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if letter not in equation]
    terms, most = [], 0
    for term, value in zip(left.split(","), call.inputs, strict=True):
        hidden = value.rank - len(term.replace("...", ""))
        most = max(most, hidden)
        terms.append((term, hidden))
    if most > len(free):
        return None
    spread = [term.replace("...", "".join(free[most - hidden : most])) for term, hidden in terms]
    return spread, right.replace("...", "".join(free[:most]))


@rule("Einsum")
def einsum(call: OpCall) -> Result:
    """Rows have one letter in all terms, and the output has it."""
    found = _terms(call)
    if found is None:
        return call.unknown("its equation is not covered")
    terms, out = found
    if any(value.kind is Kind.COUNT for value in call.inputs):
        return call.mixed("the number or the place of rows enters its values")
    letters = {term[value.axis()] for term, value in zip(terms, call.inputs, strict=True) if value.kind is Kind.ROWS}
    if len(letters) > 1:
        return call.mixed(_PAIRS)
    letter = letters.pop()
    if letter not in out:
        return call.mixed(_SUMMED)
    if out.count(letter) > 1:
        return call.mixed("its values depend on the place of a row in the batch")
    sizes: dict[str, Dim] = {}
    for term, value in zip(terms, call.inputs, strict=True):
        if term.count(letter) > 1:
            return call.mixed("it puts every row together with every other row")
        if value.kind is not Kind.ROWS and letter in term and (value.shape or ())[term.index(letter)] != 1:
            return call.mixed("its values depend on the place of a row in the batch")
        sizes.update({one: size for one, size in zip(term, value.shape or (), strict=True) if size != 1})
    layouts = {(v.layout.outer, v.layout.inner) for v in call.with_rows() if v.layout is not None}
    if len(layouts) > 1:
        return call.mixed("it puts rows together that lie at different places")
    outer, inner = layouts.pop()
    return call.rows(Layout(out.index(letter), outer, inner), [sizes.get(one, 1) for one in out])


@rule("Conv2D", "Conv3D", "DepthwiseConv2dNative")
def convolution(call: OpCall) -> Result:
    """Each example of the batch under a public filter."""
    value, kernel = call.inputs
    if kernel.kind is not Kind.PUBLIC or value.kind is not Kind.ROWS or value.layout is None:
        return call.unknown("its filter depends on the data")
    if value.axis() != 0:
        return call.mixed("it moves its filter over the batch")
    return call.rows(value.layout)


@rule("Conv2DBackpropInput", "Conv3DBackpropInputV2", "DepthwiseConv2dNativeBackpropInput")
def transposed_convolution(call: OpCall) -> Result:
    """Return the gradient of a convolution, or a transposed one, under a public filter."""
    kernel, value = call.inputs[1:]
    if kernel.kind is not Kind.PUBLIC or value.kind is not Kind.ROWS or value.layout is None:
        return call.unknown("its filter depends on the data")
    if value.axis() != 0:
        return call.mixed("it moves its filter over the batch")
    numbers = call.constant(0)
    if numbers is None or numbers[0] != value.layout.size:
        return call.unknown("its shape is not known")
    if any(depends(number) for number in numbers[1:]):
        return call.unknown("its shape depends on the number of rows")
    return call.rows(value.layout, numbers)
