"""The state of one conversion: layers of a Keras model are taken in order, and operations are added for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.encrypted.model.layers import Input, Layer, Shape
from privacy_pipeline.errors import BadInputError

SUPPORTED = (
    "Dense, Conv2D, DepthwiseConv2D, AveragePooling2D, MaxPooling2D, GlobalAveragePooling2D, BatchNormalization, ReLU, "
    "Activation, Flatten, Reshape, Add, Concatenate, Embedding, Dropout"
)
Rule = Callable[["Converter", Any, list[str], list[Shape]], str]  # emits; returns the name of the part with the result


class Converter:
    """Takes the layers of one model, each after those it depends on; `rules` has what becomes of each kind of layer."""

    def __init__(self, model: Any, *, rules: Mapping[Any, Rule]) -> None:
        self._model = model
        self._rules = rules
        self.last = model.output_names[0]
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
        kind = self._rules.get(type(layer))
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
        if function in ("sigmoid", "softmax") and layer.name == self.last:
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
