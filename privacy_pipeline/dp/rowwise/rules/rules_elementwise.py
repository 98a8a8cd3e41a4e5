"""Rules of ops that compute each number from the numbers at its place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from privacy_pipeline.dp.rowwise.registry import COUNTING, OpCall, Result, rule
from privacy_pipeline.dp.rowwise.sizes import Dim
from privacy_pipeline.dp.rowwise.values import UNNAMED, Kind, Value, join

_UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Digamma", "Elu", "Erf", "Erfc"),
    *("Erfinv", "Exp", "Expm1", "Floor", "Inv", "Invert", "IsFinite", "IsInf", "IsNan", "LeakyRelu", "Lgamma", "Log"),
    *("Log1p", "LogicalNot", "Ndtri", "Neg", "OnesLike", "Reciprocal", "Relu", "Relu6", "Rint", "Round", "Rsqrt"),
    *("Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Square", "Tan", "Tanh"),
    *("BesselI0", "BesselI0e", "BesselI1", "BesselI1e", "Bucketize", "StringToNumber", "AsString", "StringLower"),
    *("StringUpper", "StringStrip", "StringLength", "StaticRegexReplace", "StaticRegexFullMatch"),
    *("StringToHashBucketFast", "StringToHashBucketStrong", "StringToHashBucket"),
    *("FakeQuantWithMinMaxArgs", "Real", "Imag", "Conj", "ComplexAbs", "Angle"),
)
_BINARY = (
    *("Add", "AddV2", "Atan2", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "DivNoNan", "Equal", "FloorDiv"),
    *("FloorMod", "Greater", "GreaterEqual", "Less", "LessEqual", "LogicalAnd", "LogicalOr", "Maximum", "Minimum"),
    *("Mod", "Mul", "MulNoNan", "NextAfter", "NotEqual", "Pow", "RealDiv", "SquaredDifference", "Sub", "TruncateDiv"),
    *("TruncateMod", "Xdivy", "Xlog1py", "Xlogy", "LeftShift", "RightShift", "Complex", "Polygamma", "Zeta"),
    *("Igamma", "Igammac", "IgammaGradA", "Betainc", "ClipByValue", "SelectV2", "StringJoin"),
    # Gradients of elementwise ops.
    *("EluGrad", "InvGrad", "LeakyReluGrad", "ReciprocalGrad", "Relu6Grad", "ReluGrad", "RsqrtGrad", "SeluGrad"),
    *("SigmoidGrad", "SoftplusGrad", "SoftsignGrad", "SqrtGrad", "TanhGrad", "FakeQuantWithMinMaxArgsGradient"),
)
# Their kernels compare the numbers of elements alone.
_FLAT = frozenset(kind for kind in _BINARY if "Grad" in kind and kind != "IgammaGradA")
COUNTING.update((*_UNARY, *_BINARY))  # `aligned` looks for them
_THROUGH = ("Identity", "StopGradient", "PreventGradient", "Snapshot", "EnsureShape", "ZerosLike")


@rule("IdentityN", raw=True)
def identities(call: OpCall) -> Result:
    """Each tensor as it is; functions with a gradient of their own end in this op."""
    return list(call.inputs)


@rule("PlaceholderWithDefault", raw=True)
def with_default(call: OpCall) -> Result:
    """Inside a graph the default stands: nothing is fed to it."""
    return believed(call, call.inputs[0], call.node.attr["shape"].shape)


def believed(call: OpCall, value: Value, stated: Any) -> Value:
    """Return the value; unknown where the op states more of its shape than is known."""
    return call.unknown("it states a shape that is not proven") if claims_more(value, stated) else value


def claims_more(value: Value, stated: Any) -> bool:
    """Return whether an attribute's shape claims more than is known; TensorFlow rewrites graphs by such shapes.

    Args:
        value: what is known.
        stated: a `TensorShapeProto`.
    """
    if value.is_list or stated.unknown_rank or value.kind in (Kind.MIXED, Kind.UNKNOWN):
        return False
    if value.shape is None or len(value.shape) != len(stated.dim):
        return True
    return any(dim.size >= 0 and dim.size != size for dim, size in zip(stated.dim, value.shape, strict=True))


@rule(*_THROUGH)
def through(call: OpCall) -> Result:
    """Return the same layout; zeros reveal nothing about indices."""
    value = call.inputs[0]
    if value.is_list:
        return value if call.type == "Identity" else without_numbers(value)
    if call.type == "ZerosLike":
        return replace(value, content=None, span=0, gap=0, bound=1)
    return replace(value, content=None)


@rule("Cast", "Bitcast")
def cast(call: OpCall) -> Result:
    """Return a number for a number."""
    value = call.inputs[0]
    if call.type == "Bitcast" and _bytes(call, "T") != _bytes(call, "type"):
        return call.unknown("it changes the number of axes")
    # Shorter integers wrap around: an index would become that of another row.
    keeps = call.type == "Cast" and long_integers(call, "SrcT") and long_integers(call, "DstT")
    if value.span and not keeps:
        return call.unknown("it computes with the place of rows")
    return replace(value, content=None, bound=value.bound if keeps else 0)


def _bytes(call: OpCall, attr: str) -> int:
    from tensorflow import dtypes

    return int(dtypes.as_dtype(call.node.attr[attr].type).size)


def long_integers(call: OpCall, attr: str) -> bool:
    """Return whether an attribute names a type that holds every place of a batch."""
    from tensorflow import dtypes

    return dtypes.as_dtype(call.node.attr[attr].type) in (dtypes.int32, dtypes.int64)


def without_numbers(value: Value) -> Value:
    """Return the same, with nothing stated of its numbers."""
    key = UNNAMED if value.key else ""
    return replace(value, content=None, span=0, gap=0, bound=0, key=key, exact=False, least=None)


def aligned(call: OpCall, values: list[Value]) -> Value:
    """Return tensors that are spread against each other, as NumPy does: the axes of rows have to meet in one."""
    if any(value.shape is None or value.is_list for value in values):
        return call.unknown("a shape is not known")
    rank = max(value.rank for value in values)
    having = [value for value in values if value.kind is Kind.ROWS]
    axes = {rank - value.rank + value.axis() for value in having}
    if len(axes) > 1:
        return call.mixed("it puts every row together with every other row")
    layouts = {(value.layout.outer, value.layout.inner) for value in having if value.layout is not None}
    if len(layouts) > 1:
        return call.mixed("it puts rows together that lie at different places")
    axis = axes.pop()
    for value in values:
        bad = _outside(call, value, axis - (rank - value.rank))
        if bad is not None:
            return bad
    layout = having[0].layout
    assert layout is not None
    return call.rows(replace(layout, axis=axis), _spread(values, rank), bound=0)


def _outside(call: OpCall, value: Value, axis: int) -> Value | None:
    """Return what is wrong with an input without rows: it may not change along the axis of rows."""
    if value.kind is Kind.COUNT:
        if call.whole_numbers():
            return call.unknown("it computes with the number or the place of rows")
        return call.mixed("the number or the place of rows enters its values")
    if value.kind is Kind.PUBLIC and axis >= 0 and value.shape is not None and value.shape[axis] != 1:
        if value.shape[axis] is None:
            return call.unknown("a size is not known")
        return call.mixed("its values depend on the place of a row in the batch")
    return None


def _spread(values: list[Value], rank: int) -> list[Dim]:
    sizes: list[Dim] = [1] * rank
    for value in values:
        for place, size in enumerate(value.shape or (), start=rank - value.rank):
            if size != 1:
                sizes[place] = size if sizes[place] == 1 or sizes[place] == size else None
    return sizes


@rule(*_UNARY, *_BINARY)
def elementwise(call: OpCall) -> Result:
    """Each number from the numbers at its place."""
    if call.takes_misfits():
        return call.unknown("it gives one truth value where shapes do not fit")
    if call.type in _FLAT and not _lie_alike(call.inputs):
        return call.unknown("it pairs numbers in their order, whatever the shapes")
    made = aligned(call, call.inputs)
    if made.kind is not Kind.ROWS:
        return made
    if any(value.span for value in call.inputs):
        return _index(call, made)
    if call.type in ("SelectV2", "Maximum", "Minimum", "FloorMod"):
        return replace(made, bound=_bound(call))
    return made


def _lie_alike(values: list[Value]) -> bool:
    """Return whether tensors of as many elements, read in order, have each row's at the same places."""
    first = values[0]
    if any(value.kind is not Kind.ROWS or value.layout != first.layout or value.shape is None for value in values):
        return False
    before = [(value.shape or ())[: first.axis()] for value in values]
    return all(one == before[0] and None not in one for one in before)


def _index(call: OpCall, made: Value) -> Value:
    """Return indices of rows laid out flat, by which tensors are gathered and scattered: a multiple, or a place
    inside.
    """
    for place, more in (call.inputs, call.inputs[::-1]) if len(call.inputs) == 2 else ():
        if place.span and call.type in ("Add", "AddV2") and 0 < _below(more) <= place.gap:
            return replace(made, span=place.span)
        times = more.content.item() if more.content is not None and more.content.size == 1 else None
        if place.span and call.type == "Mul" and isinstance(times, int) and times > 0:
            return replace(made, span=place.span * times, gap=place.gap * times)
    return call.unknown("it computes with the place of rows")


def _bound(call: OpCall) -> int:
    bounds = [_below(value) for value in (call.inputs[1:] if call.type == "SelectV2" else call.inputs)]
    if call.type in ("SelectV2", "Maximum"):
        return max(bounds) if all(bounds) else 0
    if call.type == "Minimum":
        return 0
    content: Any = call.inputs[1].content
    known = call.whole_numbers() and content is not None and content.size == 1 and isinstance(content.item(), int)
    return int(content.item()) if known and content.item() > 0 else 0


def _below(value: Value) -> int:
    if value.bound or value.content is None:
        return value.bound
    numbers = list(value.content.flat)
    return max(numbers) + 1 if all(isinstance(one, int) and one >= 0 for one in numbers) and numbers else 0


@rule("Select")
def select(call: OpCall) -> Result:
    """As `SelectV2`, or whole rows by a vector of conditions."""
    condition, values = call.inputs[0], call.inputs[1:]
    if condition.rank == 1 and values[0].rank > 1:
        ones: tuple[Dim, ...] = (1,) * (values[0].rank - 1)
        condition = replace(condition, shape=(*(condition.shape or ()), *ones), content=None)
    return aligned(call, [condition, *values])


@rule("AddN")
def add_n(call: OpCall) -> Result:
    """Return a sum of tensors of one shape, or of lists, element by element."""
    if all(value.is_list for value in call.inputs):
        held: Value | None = call.inputs[0]
        for value in call.inputs[1:]:
            held = None if held is None else join(held, value)
        return call.unknown("its lists differ") if held is None else without_numbers(held)
    return aligned(call, call.inputs)


@rule("BiasAdd")
def bias_add(call: OpCall) -> Result:
    """Return a public bias along the channels."""
    value, bias = call.inputs
    if value.kind is not Kind.ROWS or bias.kind is not Kind.PUBLIC:
        return call.unknown("the bias depends on the data")
    channel = 1 if call.text("data_format").startswith("NC") else value.rank - 1
    if value.axis() == channel:
        return call.mixed("its values depend on the place of a row in the batch")
    return replace(value, content=None, bound=0)
