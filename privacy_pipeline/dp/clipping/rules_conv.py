"""Rules for convolutions: each is a linear map of patches (Rochette, Manoel and Tramel 2019, 1912.06015)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from privacy_pipeline.dp.clipping.parts import MatrixPart, Part, VectorPart, is_direct
from privacy_pipeline.dp.clipping.registry import LayerCall, in_single, register_rule
from privacy_pipeline.dp.clipping.rules_linear import activated, bias_part, linear

_Layers = tf.keras.layers
_FEW_CHANNELS = 8
_MOST_IDENTITY = 64  # kernel width * channels up to which the identity convolution is cheap


def _channels_last(layer: Any) -> bool:
    return bool(layer.data_format == "channels_last")


def _patches(layer: Any, inputs: Any) -> tuple[Any, int]:
    """Return the patches that the kernel saw, [B, T, K * C] with K positions slow and C channels fast; and K.

    A convolution in one dimension is one in two with a height of 1.
    """
    kernel, strides, dilation = (tuple(getattr(layer, n)) for n in ("kernel_size", "strides", "dilation_rate"))
    padding = layer.padding
    if padding == "causal":
        inputs = tf.pad(inputs, [[0, 0], [dilation[0] * (kernel[0] - 1), 0], [0, 0]])
        padding = "valid"
    if len(kernel) == 1:
        inputs = inputs[:, None]
        kernel, strides, dilation = (1, *kernel), (1, *strides), (1, *dilation)
    found = tf.image.extract_patches(
        inputs, [1, *kernel, 1], [1, *strides, 1], [1, *dilation, 1], padding=padding.upper()
    )
    width = kernel[0] * kernel[1] * inputs.shape[-1]
    count = found.shape[1:3].num_elements()
    dynamic = tf.reduce_prod(tf.shape(found)[1:3]) if count is None else count
    return tf.reshape(found, tf.stack([tf.shape(found)[0], dynamic, width])), kernel[0] * kernel[1]


def _flat(outputs: Any) -> Any:
    """Return [B, ..., F] as [B, T, F]."""
    count = outputs.shape[1:-1].num_elements()
    dynamic = tf.reduce_prod(tf.shape(outputs)[1:-1]) if count is None else count
    return tf.reshape(outputs, tf.stack([tf.shape(outputs)[0], dynamic, outputs.shape[-1]]))


@dataclass(frozen=True)
class _Axis:
    """One spatial axis of a convolution: which input places each kernel position sees."""

    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    outputs: int

    def places(self) -> Any:
        """Return places in the padded input, int64, [kernel, outputs]."""
        return np.arange(self.kernel)[:, None] * self.dilation + np.arange(self.outputs)[None] * self.stride


def _axis(size: int, geometry: tuple[int, int, int], padding: str) -> _Axis:
    kernel, stride, dilation = geometry
    span = (kernel - 1) * dilation + 1
    if padding == "same":
        outputs = -(-size // stride)
        total = max((outputs - 1) * stride + span - size, 0)
        return _Axis(kernel, stride, dilation, total // 2, total - total // 2, outputs)
    before = span - 1 if padding == "causal" else 0
    return _Axis(kernel, stride, dilation, before, 0, (size + before - span) // stride + 1)


def _kernel_gradients(layer: Any, inputs: Any, outputs: Any) -> Any:
    """Return gradients of a kernel [kh, kw, C, F] for each example, [B, kh, F, kw * C].

    Patches are cut along the width, then whole rows of them are gathered for each row of the kernel: that copies long
    runs of memory, where `extract_patches` copies single pixels.

    Args:
        layer: the convolution.
        inputs: [B, H, W, C], H and W static.
        outputs: gradients of the pre-activations, [B, oh, ow, F].
    """
    geometry = zip(*(_two(getattr(layer, n)) for n in ("kernel_size", "strides", "dilation_rate")), strict=True)
    height, width = (
        _axis(size, sizes, "valid" if layer.padding == "causal" and number == 0 else layer.padding)
        for number, (size, sizes) in enumerate(zip(inputs.shape[1:3], geometry, strict=True))
    )
    channels, filters = inputs.shape[3], outputs.shape[3]
    padded = tf.pad(inputs, [[0, 0], [height.before, height.after], [width.before, width.after], [0, 0]])
    if width.dilation == 1 and width.kernel * channels <= _MOST_IDENTITY and channels < _FEW_CHANNELS:
        # A convolution with an identity kernel copies; for few channels it does so faster than a gather.
        eye = tf.reshape(tf.eye(width.kernel * channels, dtype=inputs.dtype), [1, width.kernel, channels, -1])
        cut = tf.nn.conv2d(padded, eye, [1, 1, width.stride, 1], "VALID")
    else:
        cut = tf.gather(padded, width.places().T.reshape(-1), axis=2)
    run = width.outputs * width.kernel * channels
    rows = tf.reshape(cut, [-1, inputs.shape[1] + height.before + height.after, run])
    rows = tf.gather(rows, height.places().reshape(-1), axis=1)
    places = height.outputs * width.outputs
    rows = tf.reshape(rows, [-1, height.kernel, places, width.kernel * channels])
    flat = tf.reshape(outputs, [-1, 1, places, filters])
    return tf.matmul(flat, rows, transpose_a=True)


def _two(sizes: Any) -> tuple[int, int]:
    return (1, int(sizes[0])) if len(sizes) == 1 else (int(sizes[0]), int(sizes[1]))


@dataclass(frozen=True)
class _ConvolutionPart:
    """A kernel's gradients in the order in which they come out cheapest, [B, kh, F, kw * C]."""

    gradients: Any
    shape: Any

    def _ordered(self, values: Any) -> Any:
        height, filters, columns = values.shape[-3:]
        split = tf.reshape(values, [-1, height, filters, columns])
        return tf.reshape(tf.transpose(split, [0, 1, 3, 2]), [-1, *self.shape])

    def squared_norm(self) -> Any:
        """Return the squared norms, [B]."""
        return VectorPart(self.gradients).squared_norm()

    def weighted_sum(self, weights: Any) -> Any:
        """Return the sum under weights [B], in the variable's shape."""
        summed = VectorPart(self.gradients).weighted_sum(weights)
        return self._ordered(tf.ensure_shape(summed, self.gradients.shape[1:]))[0]

    def per_example(self) -> Any:
        """Return the gradients, [B, *variable.shape]."""
        return self._ordered(self.gradients)


def _kernel_part(layer: Any, inputs: Any, outputs: Any) -> Part:
    inputs, shape = in_single(inputs), layer.kernel.shape
    known = None not in inputs.shape[1:] and None not in outputs.shape[1:]
    if layer.groups == 1 and known:
        places, width = outputs.shape[1:-1].num_elements(), shape[:-1].num_elements()
        if is_direct(places, width, shape[-1]):
            if inputs.shape.rank == 3:
                inputs, outputs = inputs[:, None], outputs[:, None]
            return _ConvolutionPart(_kernel_gradients(layer, inputs, outputs), shape)
    patches, size = _patches(layer, inputs)
    flat = _flat(outputs)
    groups = layer.groups
    if groups == 1:
        return MatrixPart(patches, flat, shape)
    head = tf.shape(patches)[:2]
    split = tf.reshape(patches, tf.concat([head, [size, groups, inputs.shape[-1] // groups]], 0))
    by_group = tf.reshape(flat, tf.concat([head, [groups, layer.filters // groups]], 0))
    gradients = tf.einsum("btkgc,btgf->bkcgf", split, by_group)
    return VectorPart(tf.reshape(gradients, [-1, *shape]))


@register_rule(_Layers.Conv2D, supports=_channels_last)
@register_rule(_Layers.Conv1D, supports=_channels_last)
def convolution(call: LayerCall) -> Any:
    """Conv1D and Conv2D with strides, dilation, groups, and any padding."""
    layer, inputs = call.layer, call.inputs()
    outputs = call.original_with(activation=linear)
    call.tap(outputs)

    def parts(gradients: Sequence[Any]) -> dict[Any, Part]:
        made: dict[Any, Part] = {layer.kernel.ref(): _kernel_part(layer, inputs, gradients[0])}
        if layer.use_bias:
            made[layer.bias.ref()] = bias_part(gradients[0], layer.bias.shape)
        return made

    call.record([outputs], parts)
    return activated(layer, outputs)


@register_rule(_Layers.DepthwiseConv2D, supports=_channels_last)
def depthwise_convolution(call: LayerCall) -> Any:
    """DepthwiseConv2D: one small linear map for each channel."""
    layer, inputs = call.layer, call.inputs()
    outputs = call.original_with(activation=linear)
    call.tap(outputs)

    def parts(gradients: Sequence[Any]) -> dict[Any, Part]:
        patches, size = _patches(layer, in_single(inputs))
        head, channels = tf.shape(patches)[:2], inputs.shape[-1]
        split = tf.reshape(patches, tf.concat([head, [size, channels]], 0))
        out = tf.reshape(_flat(gradients[0]), tf.concat([head, [channels, layer.depth_multiplier]], 0))
        found = tf.einsum("btkc,btcm->bkcm", split, out)
        made: dict[Any, Part] = {
            layer.depthwise_kernel.ref(): VectorPart(tf.reshape(found, [-1, *layer.depthwise_kernel.shape]))
        }
        if layer.use_bias:
            made[layer.bias.ref()] = bias_part(gradients[0], layer.bias.shape)
        return made

    call.record([outputs], parts)
    return activated(layer, outputs)
