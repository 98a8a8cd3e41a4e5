"""What each kind of Keras layer becomes, and what of it is refused. TensorFlow is imported on use."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from privacy_pipeline.encrypted.model.conversion.converter import Converter, Rule, refusal
from privacy_pipeline.encrypted.model.layers import Shape


def _dense(to: Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    name = to.emit(layer.name, "dense", sources, kernel=layer.kernel.numpy(), bias=_bias(layer))
    return to.activated(layer, name)


def _conv2d(to: Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    if layer.groups != 1 or tuple(layer.dilation_rate) != (1, 1):
        raise refusal(layer, "has groups or dilation", fix="use groups=1 and dilation_rate=1")
    name = to.emit(layer.name, "conv2d", sources, _window(layer), kernel=layer.kernel.numpy(), bias=_bias(layer))
    return to.activated(layer, name)


def _depthwise(to: Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    if tuple(layer.dilation_rate) != (1, 1):
        raise refusal(layer, "has dilation", fix="use dilation_rate=1")
    kernel = layer.depthwise_kernel.numpy()
    name = to.emit(layer.name, "depthwise_conv2d", sources, _window(layer), kernel=kernel, bias=_bias(layer))
    return to.activated(layer, name)


def _bias(layer: Any) -> Any:
    return layer.bias.numpy() if layer.use_bias else None


def _window(layer: Any) -> dict[str, Any]:
    if layer.data_format != "channels_last":
        raise refusal(layer, f"has data_format {layer.data_format}", fix="use channels_last")
    return {"strides": tuple(int(stride) for stride in layer.strides), "padding": layer.padding}


def _average_pool(to: Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    return to.emit(layer.name, "average_pool", sources, {**_window(layer), "pool": tuple(layer.pool_size)})


def _max_pool(to: Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    from privacy_pipeline.encrypted.model.layer_shapes import padding_of

    config = {**_window(layer), "pool": tuple(layer.pool_size)}
    for size, window, stride in zip(shapes[0][:2], config["pool"], config["strides"], strict=True):
        if padding_of(size, window=window, stride=stride, padding=layer.padding) != (0, 0):
            raise refusal(layer, "pads its input", fix="use padding='valid'")
    return to.emit(layer.name, "max_pool", sources, config)


def _global_average(to: Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    if layer.data_format != "channels_last":
        raise refusal(layer, f"has data_format {layer.data_format}", fix="use channels_last")
    height, width, channels = shapes[0]
    config = {"strides": (1, 1), "padding": "valid", "pool": (height, width)}
    mean = to.emit(f"{layer.name}:mean", "average_pool", sources, config)
    shape = (1, 1, channels) if layer.keepdims else (channels,)
    return to.emit(layer.name, "reshape", [mean], {"shape": shape})


def _batch_norm(to: Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    (axis,) = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    if axis not in (-1, len(shapes[0])):
        raise refusal(layer, f"normalises axis {axis}", fix="use the last axis")
    scale = 1 / np.sqrt(layer.moving_variance.numpy().astype(np.float64) + layer.epsilon)
    scale = scale * layer.gamma.numpy() if layer.scale else scale
    shift = -layer.moving_mean.numpy() * scale + (layer.beta.numpy() if layer.center else 0)
    return to.emit(layer.name, "affine", sources, scale=scale, shift=shift)


def _relu(to: Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    if layer.max_value is not None or layer.negative_slope != 0 or layer.threshold != 0:
        raise refusal(layer, "has a ceiling, a slope or a threshold", fix="use a plain ReLU()")
    return to.emit(layer.name, "relu", sources)


def _activation(to: Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    return to.activated(layer, sources[0])


def _reshape(to: Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    return to.emit(layer.name, "reshape", sources, {"shape": tuple(layer.output_shape[1:])})


def _flatten(to: Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    if layer.data_format != "channels_last":
        raise refusal(layer, f"has data_format {layer.data_format}", fix="use channels_last")
    return to.emit(layer.name, "reshape", sources, {"shape": (math.prod(shapes[0]),)})


def _add(to: Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    if len(set(shapes)) != 1:
        raise refusal(layer, "adds different shapes", fix="give it equal ones")
    return to.emit(layer.name, "add", sources)


def _concatenate(to: Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    axis = layer.axis - 1 if layer.axis > 0 else len(shapes[0]) + layer.axis
    if axis < 0 or layer.axis == 0:
        raise refusal(layer, "joins the batch dimension", fix="join another axis")
    return to.emit(layer.name, "concatenate", sources, {"axis": axis})


def _embedding(to: Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    if layer.mask_zero:
        raise refusal(layer, "masks zero", fix="use mask_zero=False")
    if sources[0] not in {one.name for one in to.inputs}:
        raise refusal(layer, "looks up a computed value", fix="put it right behind an Input")
    return to.emit(layer.name, "embedding", sources, table=layer.embeddings.numpy())


def _through(to: Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    return sources[0]


def _softmax(to: Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    if layer.name != to.last:
        raise refusal(layer, "is not the last layer", fix="use softmax only there")
    return sources[0]


def layer_rules() -> dict[Any, Rule]:
    """Return the rule of each kind of Keras layer that can be converted."""
    import tensorflow as tf

    keras = tf.keras.layers
    return {
        keras.Dense: _dense,
        keras.Conv2D: _conv2d,
        keras.DepthwiseConv2D: _depthwise,
        keras.AveragePooling2D: _average_pool,
        keras.MaxPooling2D: _max_pool,
        keras.GlobalAveragePooling2D: _global_average,
        keras.BatchNormalization: _batch_norm,
        keras.ReLU: _relu,
        keras.Activation: _activation,
        keras.Flatten: _flatten,
        keras.Reshape: _reshape,
        keras.Add: _add,
        keras.Concatenate: _concatenate,
        keras.Embedding: _embedding,
        keras.Dropout: _through,
        keras.SpatialDropout2D: _through,
        keras.GaussianNoise: _through,
        keras.Softmax: _softmax,
    }
