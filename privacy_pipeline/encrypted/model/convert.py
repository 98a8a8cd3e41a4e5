"""A Keras model as a network for the parties. Runs where the model was trained; TensorFlow is imported on use.

BatchNormalization is folded into the linear layer before it where it can be. Dropout does nothing. A last sigmoid or
softmax is left out: the client applies it to the revealed logit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.encrypted.model.fixed_point import scaled
from privacy_pipeline.encrypted.model.layers import LARGEST_INPUT, Input, Layer, Shape
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.errors import BadInputError

SUPPORTED = (
    "Dense, Conv2D, DepthwiseConv2D, AveragePooling2D, MaxPooling2D, GlobalAveragePooling2D, BatchNormalization, ReLU, "
    "Activation, Flatten, Reshape, Add, Concatenate, Embedding, Dropout"
)
Range = tuple[tuple[float, ...], tuple[float, ...]]  # lowest and highest: one number, or one a place of the last axis
_LINEAR = ("dense", "conv2d", "depthwise_conv2d")


def convert(model: Any, *, ranges: Mapping[str, Range] | None = None, others: float = LARGEST_INPUT) -> PrivateModel:
    """Return the network that gives the model's logit, with a scale for each layer and a proven error.

    Args:
        model: a functional or built sequential Keras model with one output, channels last.
        ranges: public ranges of float inputs by name, which clients keep to.
        others: absolute value of the inputs without one, at most.

    Raises:
        BadInputError: a layer cannot be converted, or what it can reach fits no scale; names it and the reason.
    """
    import tensorflow as tf

    if not isinstance(model, tf.keras.Model) or not getattr(model, "inputs", None) or len(model.outputs) != 1:
        raise BadInputError(
            "encrypted inference needs a functional or built sequential Keras model with one output",
            fix="return one from build_model",
        )
    functional = tf.keras.Model(model.inputs, model.outputs)
    found = _Converter(functional)
    for layer in functional.layers:
        found.take(layer)
    converted = PrivateModel(
        inputs=tuple(found.inputs),
        layers=tuple(found.layers),
        output=found.names[functional.output_names[0]],
        weights=found.weights,
    )
    if not converted.layers:
        raise BadInputError("encrypted inference needs a model with at least one layer", fix="add a Dense(1)")
    folded = _folded(converted)
    folded.shapes()
    return scaled(_within(folded, ranges or {}, others))


def _within(model: PrivateModel, ranges: Mapping[str, Range], others: float) -> PrivateModel:
    """Return the same network with the ranges of its inputs."""
    inputs = []
    for one in model.inputs:
        lower, upper = ranges.get(one.name, ((-others,), (others,)))
        inputs.append(one if one.vocabulary else dataclasses.replace(one, lower=tuple(lower), upper=tuple(upper)))
    return dataclasses.replace(model, inputs=tuple(inputs))


class _Converter:
    """Takes the layers of one model, each after those it depends on."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._kinds = _kinds()
        self._last = model.output_names[0]
        self.inputs: list[Input] = []
        self.layers: list[Layer] = []
        self.weights: dict[str, NDArray[np.float64]] = {}
        self.names: dict[str, str] = {}  # of the part that holds the output of a Keras layer

    def take(self, layer: Any) -> None:
        """Convert one layer."""
        import tensorflow as tf

        if type(layer) is tf.keras.layers.InputLayer:
            self._input(layer)
            return
        kind = self._kinds.get(type(layer))
        if kind is None and "saved_model" in type(layer).__module__:
            raise refusal(
                layer,
                "comes back from a saved model without its class",
                fix="name Keras's own initializers, regularizers and constraints in place of functions (a lambda)",
            )
        if kind is None:
            raise refusal(layer, "is not supported", fix=f"use {SUPPORTED}; subclasses of them compute something else")
        (shapes, sources) = self._sources(layer)
        if layer.dtype_policy.compute_dtype != "float32":
            raise refusal(layer, f"computes in {layer.dtype_policy.compute_dtype}", fix="use float32")
        self.names[layer.name] = kind(self, layer, sources, shapes)

    def emit(self, name: str, op: str, sources: list[str], config: dict[str, Any] | None = None, **weights: Any) -> str:
        """Add one operation and return its name."""
        held = {role: np.asarray(value, np.float64) for role, value in weights.items() if value is not None}
        shapes = {role: value.shape for role, value in held.items()}
        self.layers.append(Layer(name=name, op=op, inputs=tuple(sources), config=config or {}, weights=shapes))
        self.weights |= {f"{name}/{role}": value for role, value in held.items()}
        return name

    def activated(self, layer: Any, name: str) -> str:
        """Add the layer's own activation after the part `name`; return the name of the result."""
        function = getattr(layer.activation, "__name__", str(layer.activation))
        if function == "linear":
            return name
        if function == "relu":
            return self.emit(f"{layer.name}:relu", "relu", [name])
        if function in ("sigmoid", "softmax") and layer.name == self._last:
            return name
        raise refusal(layer, f"has activation {function}", fix="use relu; sigmoid and softmax only as the last layer")

    def _input(self, layer: Any) -> None:
        ((_, *shape),) = layer.input_shape if isinstance(layer.input_shape, list) else [layer.input_shape]
        if any(size is None for size in shape):
            raise refusal(layer, f"has the open shape {tuple(shape)}", fix="give every dimension but the batch")
        import tensorflow as tf

        readers = [node.outbound_layer for node in layer.outbound_nodes]
        tables = {reader.input_dim for reader in readers if type(reader) is tf.keras.layers.Embedding}
        if len(tables) > 1:
            raise refusal(layer, "goes into embeddings of several sizes", fix="use one input_dim")
        self.inputs.append(Input(name=layer.name, shape=tuple(shape), vocabulary=max(tables, default=0)))
        self.names[layer.name] = layer.name

    def _sources(self, layer: Any) -> tuple[list[Shape], list[str]]:
        nodes = [
            node
            for index, node in enumerate(layer.inbound_nodes)
            if f"{layer.name}_ib-{index}" in self._model._network_nodes
        ]
        if len(nodes) != 1:
            raise refusal(layer, "is used more than once", fix="give each use a layer of its own")
        shapes = nodes[0].input_shapes
        listed = shapes if isinstance(shapes, list) else [shapes]
        if any(shape is None for shape in listed):
            raise refusal(layer, "has an input whose shape is not known", fix="give each Input a shape")
        parents = [tensor._keras_history.layer.name for tensor in nodes[0].keras_inputs]
        return [tuple(shape[1:]) for shape in listed], [self.names[name] for name in parents]


def refusal(layer: Any, why: str, *, fix: str) -> BadInputError:
    """Return the refusal of a model for the sake of one layer."""
    return BadInputError(f"layer '{layer.name}' ({type(layer).__name__}) {why} in encrypted inference", fix=fix)


def _dense(to: _Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    name = to.emit(layer.name, "dense", sources, kernel=layer.kernel.numpy(), bias=_bias(layer))
    return to.activated(layer, name)


def _conv2d(to: _Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    if layer.groups != 1 or tuple(layer.dilation_rate) != (1, 1):
        raise refusal(layer, "has groups or dilation", fix="use groups=1 and dilation_rate=1")
    name = to.emit(layer.name, "conv2d", sources, _window(layer), kernel=layer.kernel.numpy(), bias=_bias(layer))
    return to.activated(layer, name)


def _depthwise(to: _Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
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


def _average_pool(to: _Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    return to.emit(layer.name, "average_pool", sources, {**_window(layer), "pool": tuple(layer.pool_size)})


def _max_pool(to: _Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    from privacy_pipeline.encrypted.model.layer_shapes import padding_of

    config = {**_window(layer), "pool": tuple(layer.pool_size)}
    for size, window, stride in zip(shapes[0][:2], config["pool"], config["strides"], strict=True):
        if padding_of(size, window=window, stride=stride, padding=layer.padding) != (0, 0):
            raise refusal(layer, "pads its input", fix="use padding='valid'")
    return to.emit(layer.name, "max_pool", sources, config)


def _global_average(to: _Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    if layer.data_format != "channels_last":
        raise refusal(layer, f"has data_format {layer.data_format}", fix="use channels_last")
    height, width, channels = shapes[0]
    config = {"strides": (1, 1), "padding": "valid", "pool": (height, width)}
    mean = to.emit(f"{layer.name}:mean", "average_pool", sources, config)
    shape = (1, 1, channels) if layer.keepdims else (channels,)
    return to.emit(layer.name, "reshape", [mean], {"shape": shape})


def _batch_norm(to: _Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    (axis,) = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    if axis not in (-1, len(shapes[0])):
        raise refusal(layer, f"normalises axis {axis}", fix="use the last axis")
    scale = 1 / np.sqrt(layer.moving_variance.numpy().astype(np.float64) + layer.epsilon)
    scale = scale * layer.gamma.numpy() if layer.scale else scale
    shift = -layer.moving_mean.numpy() * scale + (layer.beta.numpy() if layer.center else 0)
    return to.emit(layer.name, "affine", sources, scale=scale, shift=shift)


def _relu(to: _Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    if layer.max_value is not None or layer.negative_slope != 0 or layer.threshold != 0:
        raise refusal(layer, "has a ceiling, a slope or a threshold", fix="use a plain ReLU()")
    return to.emit(layer.name, "relu", sources)


def _activation(to: _Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    return to.activated(layer, sources[0])


def _reshape(to: _Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    return to.emit(layer.name, "reshape", sources, {"shape": tuple(layer.output_shape[1:])})


def _flatten(to: _Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    if layer.data_format != "channels_last":
        raise refusal(layer, f"has data_format {layer.data_format}", fix="use channels_last")
    return to.emit(layer.name, "reshape", sources, {"shape": (math.prod(shapes[0]),)})


def _add(to: _Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    if len(set(shapes)) != 1:
        raise refusal(layer, "adds different shapes", fix="give it equal ones")
    return to.emit(layer.name, "add", sources)


def _concatenate(to: _Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    axis = layer.axis - 1 if layer.axis > 0 else len(shapes[0]) + layer.axis
    if axis < 0 or layer.axis == 0:
        raise refusal(layer, "joins the batch dimension", fix="join another axis")
    return to.emit(layer.name, "concatenate", sources, {"axis": axis})


def _embedding(to: _Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    if layer.mask_zero:
        raise refusal(layer, "masks zero", fix="use mask_zero=False")
    if sources[0] not in {one.name for one in to.inputs}:
        raise refusal(layer, "looks up a computed value", fix="put it right behind an Input")
    return to.emit(layer.name, "embedding", sources, table=layer.embeddings.numpy())


def _through(to: _Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    return sources[0]


def _softmax(to: _Converter, layer: Any, sources: list[str], shapes: list[Shape]) -> str:
    if layer.name != to._last:
        raise refusal(layer, "is not the last layer", fix="use softmax only there")
    return sources[0]


def _kinds() -> dict[Any, Callable[[_Converter, Any, list[str], list[Shape]], str]]:
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


def _folded(model: PrivateModel) -> PrivateModel:
    """Multiply affine maps into the linear layer before them, where nothing else reads that layer."""
    weights = dict(model.weights)
    layers: list[Layer] = []
    renamed: dict[str, str] = {}
    readers = [name for layer in model.layers for name in layer.inputs] + [model.output]
    by_name: dict[str, int] = {}
    for layer in model.layers:
        inputs = tuple(renamed.get(name, name) for name in layer.inputs)
        before = layers[by_name[inputs[0]]] if layer.op == "affine" and inputs[0] in by_name else None
        if before is not None and before.op in _LINEAR and readers.count(layer.inputs[0]) == 1:
            layers[by_name[before.name]] = _fold(before, layer, weights)
            renamed[layer.name] = before.name
            continue
        by_name[layer.name] = len(layers)
        layers.append(dataclasses.replace(layer, inputs=inputs))
    output = renamed.get(model.output, model.output)
    return PrivateModel(inputs=model.inputs, layers=tuple(layers), output=output, weights=weights)


def _fold(linear: Layer, affine: Layer, weights: dict[str, NDArray[np.float64]]) -> Layer:
    scale, shift = (weights.pop(f"{affine.name}/{role}") for role in ("scale", "shift"))
    kernel = weights[f"{linear.name}/kernel"]
    shaped = scale.reshape(kernel.shape[-2:]) if linear.op == "depthwise_conv2d" else scale
    weights[f"{linear.name}/kernel"] = kernel * shaped
    bias = weights.get(f"{linear.name}/bias", np.zeros_like(shift)) * scale + shift
    weights[f"{linear.name}/bias"] = bias
    return dataclasses.replace(linear, weights={**linear.weights, "bias": bias.shape})
