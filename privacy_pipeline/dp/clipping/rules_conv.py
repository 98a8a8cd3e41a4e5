"""Rules for convolutions: a convolution is a linear map of patches (Rochette, Manoel and Tramel 2019, arXiv 1912.06015)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from privacy_pipeline.dp.clipping.parts import MatrixPart, Part, VectorPart
from privacy_pipeline.dp.clipping.registry import LayerCall, register_rule
from privacy_pipeline.dp.clipping.rules_linear import activated, bias_part, linear

_Layers = tf.keras.layers


def _channels_last(layer: Any) -> bool:
    return bool(layer.data_format == "channels_last")


def _patches(layer: Any, inputs: Any) -> tuple[Any, int]:
    """Patches that the kernel saw, [B, T, K * C] with K kernel positions slow and C channels fast; and K.

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
    """[B, ..., F] as [B, T, F]."""
    count = outputs.shape[1:-1].num_elements()
    dynamic = tf.reduce_prod(tf.shape(outputs)[1:-1]) if count is None else count
    return tf.reshape(outputs, tf.stack([tf.shape(outputs)[0], dynamic, outputs.shape[-1]]))


def _kernel_part(layer: Any, inputs: Any, outputs: Any) -> Part:
    patches, size = _patches(layer, inputs)
    flat, shape = _flat(outputs), layer.kernel.shape
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
        patches, size = _patches(layer, inputs)
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
