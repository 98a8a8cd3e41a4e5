"""In the build: takes a user's model apart into what may cross. Runs beside code of the user's.

Nothing here is trusted by the side that takes it over; what makes no sense there is refused there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from privacy_pipeline.backends.isolated.crossing import configs
from privacy_pipeline.backends.isolated.crossing.graph_json import traced_json
from privacy_pipeline.backends.isolated.crossing.graph_layer import GraphLayer
from privacy_pipeline.backends.isolated.crossing.layer_configs import config_of, crosses, functional
from privacy_pipeline.errors import BadInputError

_KEPT = 64  # rows that the taken-apart model is compared on
_TOLERANCE = 1e-4
_Layers = tf.keras.layers
# Give a list of one input back as it is.
_MERGING = (_Layers.Concatenate, _Layers.Add, _Layers.Average, _Layers.Maximum, _Layers.Minimum, _Layers.Multiply)


def crossing_model(model: Any) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Return the configuration of a model in which layers that do not cross are graphs, and its weights.

    Raises:
        BadInputError: part of it cannot cross.
    """
    made = _whole(model) if _needs_whole(model) else _by_layers(model)
    config = json.loads(made.to_json())
    document = {"class_name": config["class_name"], "config": config["config"]}
    weights = made.get_weights()
    _require_same(model, configs.model_of(document, weights))
    return document, weights


def _needs_whole(model: Any) -> bool:
    """Whether the model computes more than its layers do one after the other."""
    if type(model) not in (tf.keras.Sequential, functional()):
        return True
    masked = [tensor for node in _nodes(model) for tensor in node.keras_inputs if _has_mask(tensor)]
    return bool(masked) and not all(crosses(node.layer) for node in _nodes(model))


def _has_mask(tensor: Any) -> bool:
    return getattr(tensor, "_keras_mask", None) is not None


def _nodes(model: Any) -> list[Any]:
    """Return the calls of its layers, each after those whose outputs it takes."""
    return [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]


def _by_layers(model: Any) -> Any:
    """Return a model of new layers, with graphs for those that do not cross."""
    made: dict[int, Any] = {}
    copies: dict[int, Any] = {}
    graphs = _graph_layers(model)
    called: dict[int, int] = {}
    for node in _nodes(model):
        layer = node.layer
        if node.is_input:
            fresh = tf.keras.Input(shape=node.outputs.shape[1:], dtype=node.outputs.dtype, name=layer.name)
            made[id(node.outputs)] = fresh
            continue
        inputs = [made[id(one)] for one in node.keras_inputs]
        if type(layer) in _MERGING and len(inputs) == 1:
            # Keras reads a list of one input back as the input itself, which such a layer then refuses.
            made[id(node.outputs)] = inputs[0]
            continue
        if id(layer) in graphs:
            place = called.setdefault(id(layer), 0)
            called[id(layer)] += 1
            outputs = graphs[id(layer)](inputs if len(inputs) > 1 else inputs[0], place=place)
        else:
            if id(layer) not in copies:
                copies[id(layer)] = _copy(layer)
            arguments, options = node.map_arguments({str(id(one)): [made[id(one)]] for one in node.keras_inputs})
            outputs = copies[id(layer)](*arguments, **options)
        for old, new in zip(tf.nest.flatten(node.outputs), tf.nest.flatten(outputs), strict=True):
            made[id(old)] = new
    inputs = tf.nest.map_structure(lambda one: made[id(one)], model._nested_inputs)
    outputs = tf.nest.map_structure(lambda one: made[id(one)], model._nested_outputs)
    rebuilt = tf.keras.Model(inputs, outputs, name=model.name)
    rebuilt.trainable = model.trainable
    for layer in model.layers:
        target = graphs.get(id(layer)) or copies.get(id(layer))
        if target is not None:
            target.trainable = layer.trainable
            target.set_weights(layer.get_weights())
    return rebuilt


def _copy(layer: Any) -> Any:
    config = config_of(layer)
    if config is None:
        raise BadInputError(f"model: layer '{layer.name}' cannot cross", fix="report this")
    return tf.keras.layers.deserialize(config)


def _graph_layers(model: Any) -> dict[int, Any]:
    """Return what stands for each layer that does not cross, by the layer's id."""
    found: dict[int, list[Any]] = {}
    for node in _nodes(model):
        if not node.is_input and not crosses(node.layer):
            found.setdefault(id(node.layer), []).append(node)
    return {key: _graph_layer(nodes[0].layer, [_call_of(node) for node in nodes]) for key, nodes in found.items()}


def _call_of(node: Any) -> tuple[list[Any], Callable[..., Any]]:
    """Return the specs of what a layer is called with, and the call."""

    def call(tensors: Sequence[Any], training: bool) -> Any:
        given = {str(id(one)): [tensor] for one, tensor in zip(node.keras_inputs, tensors, strict=True)}
        arguments, options = node.map_arguments(given)
        if node.layer._expects_training_arg and options.get("training") is None:
            options["training"] = training
        return node.layer(*arguments, **options)

    return [tf.TensorSpec(one.shape, one.dtype) for one in node.keras_inputs], call


def _whole(model: Any) -> Any:
    """Return a model of one layer, which is the graph of all of it."""

    def call(tensors: Sequence[Any], training: bool) -> Any:
        return model(tf.nest.pack_sequence_as(model._nested_inputs, list(tensors)), training=training)

    specs = [tf.TensorSpec(one.shape, one.dtype) for one in model.inputs]
    layer = _graph_layer(model, [(specs, call)], name="whole")
    inputs = [
        tf.keras.Input(shape=one.shape[1:], dtype=one.dtype, name=name)
        for one, name in zip(model.inputs, model.input_names, strict=True)
    ]
    made = tf.keras.Model(inputs, layer(inputs if len(inputs) > 1 else inputs[0], place=0), name=model.name)
    layer.set_weights(model.get_weights())
    return made


def _graph_layer(layer: Any, calls: Sequence[tuple[list[Any], Callable[..., Any]]], *, name: str | None = None) -> Any:
    what = f"layer '{layer.name}' ({type(layer).__name__})"
    _require_no_losses(layer, what)
    weights, trained = layer.weights, {id(one) for one in layer.trainable_weights}
    phases = ("training", "inference")
    programs = [
        {one: traced_json(_outputs(call, one == "training"), specs, weights=weights, what=what) for one in phases}
        for specs, call in calls
    ]
    return GraphLayer(
        calls=programs,
        variables=[_declared(one, number, id(one) in trained) for number, one in enumerate(weights)],
        stands_for=type(layer).__name__,
        name=name or layer.name,
        dtype=layer.dtype,
    )


def _outputs(call: Callable[..., Any], training: bool) -> Callable[..., Any]:
    return lambda *tensors: tf.nest.flatten(call(tensors, training))


def _require_no_losses(layer: Any, what: str) -> None:
    if layer.losses:
        raise BadInputError(
            f"model: {what} adds a loss, which its graph does not carry",
            fix="drop add_loss and regularizers from it; regularizers of built-in layers cross",
        )
    if any(getattr(one, "constraint", None) is not None for one in layer.weights):
        raise BadInputError(f"model: {what} constrains a weight, which its graph does not carry", fix="drop it")


def _declared(variable: Any, number: int, trained: bool) -> dict[str, Any]:
    name = variable.name.partition(":")[0].rpartition("/")[2] or f"weight_{number}"
    return {
        "name": f"{name}_{number}",
        "shape": variable.shape.as_list(),
        "dtype": variable.dtype.base_dtype.name,
        "trainable": trained,
    }


def _require_same(model: Any, rebuilt: Any) -> None:
    """Compare two models on made-up rows.

    Raises:
        BadInputError: they differ.
    """
    random = np.random.default_rng(0)
    rows = [_made_up(one, random) for one in model.inputs]
    by_name = dict(zip(model.input_names, rows, strict=True))
    first, second = (_called(one, by_name) for one in (model, rebuilt))
    again = _called(model, by_name)
    if not np.array_equal(first, again, equal_nan=True):
        return  # it draws at random
    if first.shape != second.shape or not np.allclose(first, second, atol=_TOLERANCE, rtol=_TOLERANCE, equal_nan=True):
        raise BadInputError(
            "model: what crossed of it computes something else than it does",
            fix="build with layers of Keras, or with layers whose `call` alone computes their outputs",
        )


def _called(model: Any, rows: Mapping[str, Any]) -> NDArray[Any]:
    given = tf.nest.pack_sequence_as(model._nested_inputs, [rows[name] for name in model.input_names])
    return np.asarray(model(given, training=False))


def _made_up(tensor: Any, random: np.random.Generator) -> Any:
    shape = [_KEPT, *(size or 1 for size in tensor.shape[1:])]
    if tensor.dtype == tf.string:
        return tf.constant(np.full(shape, b"a"))
    if tensor.dtype.is_floating:
        return tf.constant(random.uniform(-1, 1, shape), tensor.dtype)
    return tf.cast(tf.constant(random.integers(0, 2, shape)), tensor.dtype)
