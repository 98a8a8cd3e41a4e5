"""Rules of ops that reduce, sum up, sort or normalise along axes: not along that of the rows."""

from __future__ import annotations

from dataclasses import replace

from privacy_pipeline.dp.rowwise.registry import OpCall, Result, rule
from privacy_pipeline.dp.rowwise.sizes import Dim
from privacy_pipeline.dp.rowwise.values import Kind, Layout, Value, hides_count

_INSTEAD = "over the batch"


def _axes(call: OpCall, place: int, rank: int) -> list[int] | None:
    # A gradient is added up over the axes along which it was spread, and laid out again.
    numbers = call.perhaps_constant(place) if call.type == "Sum" else call.constant(place)
    if numbers is None or not all(isinstance(number, int) for number in numbers):
        return None
    return [int(number) % rank for number in numbers] if rank else []


@rule("Sum", "Mean", "Max", "Min", "Prod", "All", "Any", "EuclideanNorm", "ReduceJoin")
def reduction(call: OpCall) -> Result:
    """Return a reduction over other axes than that of the rows."""
    value = call.inputs[0]
    if value.kind is not Kind.ROWS or value.shape is None or value.layout is None:
        return call.unknown("its axes depend on the data")
    axes = _axes(call, 1, value.rank)
    if axes is None:
        return call.unknown("its axes are not known")
    if call.type == "ReduceJoin" and not axes:
        axes = list(range(value.rank))
    if value.axis() in axes:
        return call.mixed(f"it reduces {_INSTEAD} (axis {value.axis()})")
    if call.flag("keep_dims"):
        sizes = [1 if axis in axes else size for axis, size in enumerate(value.shape)]
        return call.rows(value.layout, sizes)
    kept = [axis for axis in range(value.rank) if axis not in axes]
    layout = replace(value.layout, axis=kept.index(value.axis()))
    # Of no numbers the largest is the least that there is.
    picked = call.type in _PICKS and all(_some(value.shape[axis]) for axis in axes)
    loose = hides_count(call.inputs[1])
    return call.rows(layout, [value.shape[axis] for axis in kept], bound=value.bound if picked else 0, loose=loose)


def _some(size: Dim) -> bool:
    return isinstance(size, int) and size > 0


_PICKS = ("Max", "Min")


@rule("ArgMax", "ArgMin")
def arg_reduction(call: OpCall) -> Result:
    """Return the place of an extreme along another axis."""
    value = call.inputs[0]
    axes = _axes(call, 1, value.rank)
    if value.layout is None or value.shape is None or axes is None:
        return call.unknown("its axis is not known")
    if value.axis() in axes:
        return call.mixed(f"it compares {_INSTEAD} (axis {value.axis()})")
    kept = [axis for axis in range(value.rank) if axis not in axes]
    size = value.shape[axes[0]]
    bound = size if isinstance(size, int) else 0
    layout = replace(value.layout, axis=kept.index(value.axis()))
    return call.rows(layout, [value.shape[axis] for axis in kept], bound=bound)


def _same(value: Value) -> Value:
    return replace(value, content=None, bound=0)


@rule("Cumsum", "Cumprod", "CumulativeLogsumexp", "ReverseV2", "Roll")
def along_axes(call: OpCall) -> Result:
    """Return a running sum, a reversal or a roll along other axes."""
    value = call.inputs[0]
    axes = _axes(call, 2 if call.type == "Roll" else 1, value.rank)
    if value.kind is not Kind.ROWS or axes is None:
        return call.unknown("its axes are not known")
    if value.axis() in axes:
        return call.mixed(f"it moves or adds up values {_INSTEAD} (axis {value.axis()})")
    if any(other.kind is not Kind.PUBLIC for other in call.inputs[1:]):
        return call.unknown("an axis or a shift depends on the data")
    return _same(value)


@rule("ReverseSequence")
def reverse_sequence(call: OpCall) -> Result:
    """Each row reversed up to its own length."""
    value, lengths = call.inputs
    along, batch = call.number("seq_dim"), call.number("batch_dim")
    if value.kind is not Kind.ROWS or value.layout is None:
        return call.unknown("lengths depend on rows, and the tensor does not")
    if value.axis() == along:
        return call.mixed(f"it moves values {_INSTEAD} (axis {along})")
    if lengths.kind is Kind.ROWS and (batch != value.axis() or lengths.layout != replace(value.layout, axis=0)):
        return call.mixed("it takes one row's length for another row")
    if lengths.kind is Kind.PUBLIC and batch == value.axis():
        return call.mixed("its values depend on the place of a row in the batch")
    if lengths.kind not in (Kind.ROWS, Kind.PUBLIC):
        return call.unknown("its lengths are not known")
    return _same(value)


# Ops that work on the last axes of each tensor alone, and how many.
_LAST = {
    **dict.fromkeys(("Softmax", "LogSoftmax", "FFT", "IFFT", "RFFT", "IRFFT"), 1),
    **dict.fromkeys(("FFT2D", "IFFT2D", "RFFT2D", "IRFFT2D", "MatrixBandPart", "MatrixInverse"), 2),
    **dict.fromkeys(("MatrixDeterminant", "MatrixDiagPart", "MatrixDiagPartV2", "MatrixDiagPartV3", "Qr"), 2),
    **dict.fromkeys(("LogMatrixDeterminant", "SelfAdjointEigV2", "Svd", "MatrixTranspose"), 2),
    **dict.fromkeys(("MatrixDiag", "MatrixDiagV2", "MatrixDiagV3"), 1),
    **dict.fromkeys(("MatrixSolve", "MatrixTriangularSolve", "MatrixSetDiag", "MatrixSetDiagV3"), 2),
}


# Those whose second argument may have rows too.
_SECOND = ("MatrixSolve", "MatrixTriangularSolve", "MatrixSetDiag", "MatrixSetDiagV3")


def _last_axes(call: OpCall) -> int:
    """Return how many axes the op works on: several diagonals of a matrix have one more than a single one."""
    if call.type in ("MatrixDiagV2", "MatrixDiagV3"):
        diagonals = call.constant(1)
        return 1 if diagonals is not None and len(set(diagonals)) == 1 else 2
    return _LAST[call.type]


def _spreads(call: OpCall, value: Value, other: Value) -> bool:
    """Return whether the op spreads two tensors from their last axes, so that equal axes do not meet."""
    return call.type == "MatrixTriangularSolve" and value.rank != other.rank


@rule(*_LAST)
def last_axes(call: OpCall) -> Result:
    """Work on the last axes of each row; other arguments with rows have to lie alike."""
    value = call.inputs[0]
    if value.kind is not Kind.ROWS or value.layout is None:
        return call.unknown("it takes rows for an argument other than its first")
    if value.axis() >= value.rank - _last_axes(call):
        return call.mixed(f"it works {_INSTEAD} (axis {value.axis()})")
    for place, other in enumerate(call.inputs[1:], start=1):
        if other.kind is Kind.ROWS and (place > 1 or call.type not in _SECOND):
            return call.unknown("an argument that is not a tensor of rows depends on the data")
        if other.kind is Kind.ROWS and (other.layout != value.layout or _spreads(call, value, other)):
            return call.mixed("it puts rows together that lie at different places")
        if other.kind is Kind.PUBLIC and other.rank > value.axis() and other.shape is not None and other.rank > 1:
            return call.unknown("a public argument has an axis where the rows lie")
        if other.kind not in (Kind.ROWS, Kind.PUBLIC):
            return call.unknown("an argument depends on the number of rows")
    return [
        call.unknown("it leaves this output unset")
        if output and leaves_unset(call)
        else call.rows(value.layout, output=output)
        for output in range(call.node.outputs)
    ]


def leaves_unset(call: OpCall) -> bool:
    """Return whether the op makes its first output alone: the others have any shape, whatever TensorFlow infers."""
    flag = {"Svd": "compute_uv", "SelfAdjointEigV2": "compute_v"}.get(call.type)
    return flag is not None and not call.flag(flag)


@rule("TopKV2", "TopK")
def top_k(call: OpCall) -> Result:
    """Return the largest numbers of each row, and their places along the last axis."""
    value = call.inputs[0]
    if value.kind is not Kind.ROWS or value.layout is None or value.shape is None:
        return call.unknown("how many are taken depends on the data")
    if value.axis() == value.rank - 1:
        return call.mixed(f"it sorts {_INSTEAD} (axis {value.axis()})")
    if len(call.inputs) > 1 and call.inputs[1].kind is not Kind.PUBLIC:
        return call.unknown("how many are taken depends on the number of rows")
    size = value.shape[-1]
    bound = size if isinstance(size, int) else 0
    sizes = [*value.shape[:-1], None]
    return [call.rows(value.layout, sizes), call.rows(value.layout, sizes, output=1, bound=bound)]


@rule("SoftmaxCrossEntropyWithLogits")
def softmax_cross_entropy(call: OpCall) -> Result:
    """Loss and gradient of each row of logits."""
    having = call.with_rows()
    if any(value.axis() != 0 or value.rank != 2 for value in having):
        return call.mixed(f"it normalises {_INSTEAD}")
    if len({value.layout for value in having}) > 1:
        return call.mixed("it puts rows together that lie at different places")
    if any(value.kind is Kind.PUBLIC and value.shape is None for value in call.inputs):
        return call.unknown("a shape is not known")
    if any(value.kind is Kind.PUBLIC and (value.shape or (0,))[0] != 1 for value in call.inputs):
        return call.mixed("its values depend on the place of a row in the batch")
    layout = having[0].layout or Layout(0)
    widths: list[Dim] = [(value.shape or (None, None))[1] for value in call.inputs]
    width = widths[0] if widths[0] != 1 else widths[1]  # one is spread over the other
    return [call.rows(layout), call.rows(layout, [None, None if None in widths else width], output=1)]


@rule("SparseSoftmaxCrossEntropyWithLogits")
def sparse_softmax_cross_entropy(call: OpCall) -> Result:
    """Loss and gradient of each row of logits, with one label a row."""
    logits, labels = call.inputs
    if logits.kind is not Kind.ROWS or labels.kind is not Kind.ROWS or logits.layout is None:
        return call.mixed("its labels or its logits are the same whatever the row")
    if logits.axis() != 0 or labels.layout != logits.layout:
        return call.mixed("it puts rows together that lie at different places")
    return [call.rows(logits.layout), call.rows(logits.layout, logits.shape, output=1)]


@rule("L2Loss", "UniqueV2", "Unique", "UniqueWithCounts", "RandomShuffle", "DynamicPartition", "Bincount")
def whole_tensor(call: OpCall) -> Result:
    """Ops that look at all numbers of a tensor at once."""
    if all(value.kind in (Kind.ROWS, Kind.PUBLIC) for value in call.inputs):
        return call.mixed(f"it looks at all values {_INSTEAD} at once")
    return call.unknown("no rule covers this op here")


@rule("DenseBincount")
def dense_bincount(call: OpCall) -> Result:
    """Return counts of each row's numbers."""
    value, weights = call.inputs[0], call.inputs[2]
    if value.kind is not Kind.ROWS or value.layout is None or value.rank != 2 or value.axis() != 0:
        return call.mixed(f"it counts {_INSTEAD}")
    if weights.kind is Kind.ROWS and weights.layout != value.layout:
        return call.mixed("it puts rows together that lie at different places")
    if weights.kind is Kind.PUBLIC and 0 not in (weights.shape or ()):
        return call.mixed("its values depend on the place of a row in the batch")
    if call.inputs[1].kind is not Kind.PUBLIC or weights.kind not in (Kind.ROWS, Kind.PUBLIC):
        return call.unknown("its size depends on the data")
    return call.rows(value.layout)
