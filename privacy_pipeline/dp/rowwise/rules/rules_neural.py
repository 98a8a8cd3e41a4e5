"""Rules of pooling, image and normalisation ops, which take the batch first."""

from __future__ import annotations

from dataclasses import replace

from privacy_pipeline.dp.rowwise.registry import OpCall, Result, rule
from privacy_pipeline.dp.rowwise.sizes import depends
from privacy_pipeline.dp.rowwise.values import Kind, Layout, Value


def _first(call: OpCall, values: list[Value], *, reason: str) -> Value | None:
    """Return what is wrong with values whose rows have to lie along axis 0, and alike; None if nothing is."""
    having = [value for value in values if value.kind is Kind.ROWS]
    if any(value.kind is not Kind.ROWS for value in values):
        return call.unknown("it takes tensors with rows and tensors without")
    if any(value.axis() != 0 for value in having):
        return call.mixed(reason)
    if len({value.layout for value in having}) > 1:
        return call.mixed("it puts rows together that lie at different places")
    return None


def _windows(call: OpCall) -> bool:
    """Return whether windows and strides leave the batch alone."""
    for name in ("ksize", "strides", "ksizes", "rates"):
        numbers = call.numbers(name)
        if numbers and numbers[0] != 1:
            return False
    return True


@rule("MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D", "ExtractImagePatches", "ExtractVolumePatches")
def pooling(call: OpCall) -> Result:
    """Windows over space."""
    bad = _first(call, call.inputs, reason="it moves a window over the batch")
    if bad is not None:
        return bad
    if not _windows(call):
        return call.mixed("it moves a window over the batch")
    return call.rows(call.inputs[0].layout or Layout(0))


@rule("MaxPoolGrad", "MaxPool3DGrad", "MaxPoolGradGrad")
def max_pooling_gradient(call: OpCall) -> Result:
    """Gradient of maxima over windows."""
    bad = _first(call, call.inputs, reason="it moves a window over the batch")
    if bad is not None:
        return bad
    return (
        call.rows(call.inputs[0].layout or Layout(0), call.inputs[0].shape)
        if _windows(call)
        else call.mixed("it moves a window over the batch")
    )


@rule("AvgPoolGrad", "AvgPool3DGrad")
def average_pooling_gradient(call: OpCall) -> Result:
    """Gradient of averages over windows."""
    value, numbers = call.inputs[1], call.constant(0)
    bad = _first(call, [value], reason="it moves a window over the batch")
    if bad is not None:
        return bad
    layout = value.layout or Layout(0)
    if numbers is None or numbers[0] != layout.size:
        return call.unknown("its shape is not known")
    if not _windows(call):
        return call.mixed("it moves a window over the batch")
    if any(depends(number) for number in numbers[1:]):
        return call.unknown("a size depends on the number of rows")
    return call.rows(layout, numbers)


_IMAGES = (
    *("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea", "SpaceToDepth", "DepthToSpace"),
    *("ResizeNearestNeighborGrad", "ResizeBilinearGrad", "ResizeBicubicGrad", "LRN", "LRNGrad"),
    *("AdjustHue", "AdjustSaturation", "AdjustContrastv2", "RGBToHSV", "HSVToRGB", "Dilation2D"),
)


_PIXELS = ("AdjustHue", "AdjustSaturation", "RGBToHSV", "HSVToRGB")  # each pixel by itself
_GRADIENTS = ("ResizeBilinearGrad", "ResizeBicubicGrad", "LRNGrad")  # of images that they take too


@rule(*_IMAGES)
def images(call: OpCall) -> Result:
    """Ops that work on each image of a batch."""
    having = call.with_rows()
    if len(having) > 1 and call.type not in _GRADIENTS:
        return call.unknown("it takes the data for an argument that is a size or a filter")
    if call.inputs[0].rank < (2 if call.type in _PIXELS else 4):
        return call.mixed("it takes the batch for an axis of the image")
    if call.inputs[0].kind is not Kind.ROWS:
        return call.unknown("it takes the data for an argument that is a size or a filter")
    if any(value.kind is Kind.COUNT for value in call.inputs):
        return call.unknown("a size depends on the number of rows")
    bad = _first(call, having, reason="it takes the batch for an axis of the image")
    if bad is not None:
        return bad
    return call.rows(having[0].layout or Layout(0))


def _channel(call: OpCall, value: Value) -> int:
    return 1 if call.text("data_format").startswith("NC") else value.rank - 1


@rule("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
def batch_normalization(call: OpCall) -> Result:
    """Statistics of each channel: over all rows, unless the rows are the channels, as in a layer normalisation."""
    value = call.inputs[0]
    if value.kind is not Kind.ROWS or value.layout is None:
        return call.unknown("its scale depends on the data")
    channel = _channel(call, value)
    if value.axis() == channel:
        return _by_channel(call, value)
    if call.flag("is_training"):
        return call.mixed("it takes mean and variance over the batch")
    if any(other.kind is not Kind.PUBLIC for other in call.inputs[1:]):
        return call.unknown("its statistics depend on the data")
    outputs = [call.rows(value.layout, value.shape)]
    return outputs + [call.public(output) for output in range(1, call.node.outputs)]


def _by_channel(call: OpCall, value: Value) -> Result:
    layout = replace(value.layout or Layout(0), axis=0)
    for other in call.inputs[1:]:
        empty = other.shape is not None and 0 in other.shape
        if not empty and other.layout != layout:
            return call.mixed("its values depend on the place of a row in the batch")
    statistics = [call.rows(layout, [None], output=output) for output in range(1, min(5, call.node.outputs))]
    rest = [call.public(output) for output in range(5, call.node.outputs)]
    return [call.rows(value.layout or Layout(0), value.shape), *statistics, *rest]


@rule("FusedBatchNormGrad", "FusedBatchNormGradV2", "FusedBatchNormGradV3")
def batch_normalization_gradient(call: OpCall) -> Result:
    """Gradient of the above; with rows for channels alone."""
    gradient, value, scale, mean, variance = call.inputs[:5]
    if gradient.kind is not Kind.ROWS or value.kind is not Kind.ROWS or value.layout is None:
        return call.unknown("its gradient or its input is the same whatever the row")
    if gradient.layout != value.layout:
        return call.mixed("it puts rows together that lie at different places")
    outputs = [call.rows(value.layout, value.shape)]
    if value.axis() == _channel(call, value):
        layout = replace(value.layout, axis=0)
        if any(other.layout != layout for other in (scale, mean, variance)):
            return call.mixed("its values depend on the place of a row in the batch")
        outputs += [call.rows(layout, [None], output=output) for output in (1, 2)]
        return outputs + [call.public(output) for output in range(3, call.node.outputs)]
    if call.flag("is_training"):
        return call.mixed("it takes mean and variance over the batch")
    if any(other.kind is not Kind.PUBLIC for other in (scale, mean, variance)):
        return call.unknown("its statistics depend on the data")
    summed = call.mixed("it sums over the batch")  # the gradients of scale and offset
    call.evaluator.offences.pop()
    return outputs + [summed] * (call.node.outputs - 1)
