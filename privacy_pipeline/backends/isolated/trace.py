"""In the build: takes a user's model and preprocessing apart into what may cross. Runs beside code of the user's.

Nothing here is trusted by the side that takes it over; what makes no sense there is refused there.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from privacy_pipeline.backends.isolated import configs
from privacy_pipeline.backends.isolated.graph_layer import GraphLayer
from privacy_pipeline.dp.tracing import as_it_is
from privacy_pipeline.errors import BadInputError

_FUNCTIONS = ("activation", "recurrent_activation")
_KEPT = 64  # rows that the taken-apart model is compared on
_TOLERANCE = 1e-4


def crossing_model(model: Any) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """The configuration of a model in which layers that do not cross are graphs, and its weights.

    Raises:
        BadInputError: part of it cannot cross.
    """
    made = _whole(model) if _needs_whole(model) else _by_layers(model)
    config = json.loads(made.to_json())
    document = {"class_name": config["class_name"], "config": config["config"]}
    weights = made.get_weights()
    _require_same(model, configs.model_of(document, weights))
    return document, weights


def traced_json(
    function: Callable[..., Any], specs: Sequence[Any], *, weights: Sequence[Any], what: str
) -> dict[str, Any]:
    """Traces a function of tensors as JSON values of a `replay.Program`.

    Args:
        function: gives a list of tensors.
        specs: `tf.TensorSpec` of each argument.
        weights: variables that it may read.
        what: the part of the model that it is, for messages.

    Raises:
        BadInputError: it reads a variable that is none of the weights.
    """
    traced = tf.function(as_it_is(lambda *given: list(function(*given))), input_signature=list(specs), autograph=False)
    graph = traced.get_concrete_function().graph
    program, tables = program_json(graph, graph.inputs[: len(specs)], graph.outputs, weights=weights, what=what)
    if tables:
        raise BadInputError(f"model: {what} reads a table", fix="look words up in preprocessing_fn")
    return program


def program_json(
    graph: Any, inputs: Sequence[Any], outputs: Sequence[Any], *, weights: Sequence[Any], what: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """JSON values of a `replay.Program`, and of the contents of the tables that it reads.

    Args:
        graph: of a traced function.
        inputs: the tensors of it that are given.
        outputs: the tensors of it that are wanted.
        weights: variables that it may read.
        what: the part of the model that it is, for messages.

    Raises:
        BadInputError: it reads a variable that is none of the weights.
    """
    places = {id(one.handle): place for place, one in enumerate(weights)}
    read: dict[str, int] = {}
    from_table: dict[str, int] = {}
    tables: list[dict[str, Any]] = []
    constants: dict[str, Any] = {}
    filled = _filled(graph)
    for outer, inner in graph.captures:
        if id(outer) in places:
            read[inner.op.name] = places[id(outer)]
        elif outer.dtype != tf.resource:
            constants[inner.op.name] = outer
        else:
            from_table[inner.op.name] = len(tables)
            tables.append(filled.get(inner.op.name) or _table(outer, what))
    definition = graph.as_graph_def()
    _fix_constants(definition, constants, what)
    kept = [node for node in definition.node if node.op not in _FILLS or node.input[0] not in from_table]
    del definition.node[:]
    definition.node.extend(kept)
    names = {node.name for node in kept}
    for node in kept:
        inner_names = [one for one in node.input if not one.startswith("^") or one[1:] in names]
        del node.input[:]
        node.input.extend(inner_names)
    program = {
        "graph": base64.b64encode(definition.SerializeToString(deterministic=True)).decode(),
        "inputs": [tensor.op.name for tensor in inputs],
        "weights": read,
        "tables": from_table,
        "outputs": [tensor.name for tensor in outputs],
    }
    return program, tables


_FILLS = ("LookupTableImportV2", "InitializeTableV2")


def _filled(graph: Any) -> dict[str, dict[str, Any]]:
    """Contents of tables that the graph itself fills with constants, by the placeholder of the table."""
    found = {}
    for operation in graph.get_operations():
        if operation.type in _FILLS:
            table, keys, values = operation.inputs
            known = [tf.get_static_value(one) for one in (keys, values)]
            if all(one is not None for one in known):
                found[table.op.name] = _content(*(tf.constant(one) for one in known))
    return found


def _fix_constants(definition: Any, values: Mapping[str, Any], what: str) -> None:
    """Writes tensors that a function took from outside of it into its graph."""
    for node in definition.node:
        if node.name not in values:
            continue
        outer = values[node.name]
        if not hasattr(outer, "numpy"):
            raise BadInputError(f"model: {what} reads a tensor of another graph", fix="make it inside of the function")
        node.op = "Const"
        del node.input[:]
        node.attr.clear()
        node.attr["dtype"].type = outer.dtype.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(outer.numpy()))


def _table(handle: Any, what: str) -> dict[str, Any]:
    """Keys and values of a lookup table."""
    for keys, values in ((tf.string, tf.int64), (tf.int64, tf.string), (tf.int64, tf.int64), (tf.string, tf.float32)):
        try:
            found = tf.raw_ops.LookupTableExportV2(table_handle=handle, Tkeys=keys, Tvalues=values)
        except tf.errors.OpError:
            continue
        return _content(found.keys, found.values)
    raise BadInputError(
        f"model: {what} reads a variable or a table that is no weight of its layer and no table of constants",
        fix="make variables with add_weight; make tables with tf.lookup.StaticHashTable of keys and values",
    )


def _content(keys: Any, values: Any) -> dict[str, Any]:
    order = np.argsort(keys.numpy().ravel(), kind="stable")  # tables have none of their own
    return {
        name: _column(tf.gather(tf.reshape(one, [-1]), order)) for name, one in (("keys", keys), ("values", values))
    }


def _column(tensor: Any) -> dict[str, Any]:
    array = tensor.numpy()
    if tensor.dtype == tf.string:
        return {"dtype": "string", "values": [base64.b64encode(one).decode() for one in array.ravel()]}
    return {"dtype": tensor.dtype.name, "values": array.ravel().tolist()}


def _needs_whole(model: Any) -> bool:
    """Whether the model computes more than its layers do one after the other."""
    if type(model) not in (tf.keras.Sequential, _functional()):
        return True
    masked = [tensor for node in _nodes(model) for tensor in node.keras_inputs if _has_mask(tensor)]
    return bool(masked) and not all(_crosses(node.layer) for node in _nodes(model))


def _functional() -> type:
    given = tf.keras.Input((1,))
    return type(tf.keras.Model(given, given))


def _has_mask(tensor: Any) -> bool:
    return getattr(tensor, "_keras_mask", None) is not None


def _nodes(model: Any) -> list[Any]:
    """The calls of its layers, each after those whose outputs it takes."""
    return [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]


def _crosses(layer: Any) -> bool:
    """Whether a layer crosses as its configuration."""
    if isinstance(layer, tf.keras.layers.InputLayer):
        return True
    config = _config_of(layer)
    return config is not None and configs.is_allowed(config)


def _config_of(layer: Any) -> dict[str, Any] | None:
    """Its configuration in JSON, where Keras makes the same layer of it; None where it does not."""
    if type(layer) in (tf.keras.Sequential, _functional()):
        if not all(_crosses(one) for one in layer.layers):
            return None
    elif (
        type(layer) is not getattr(tf.keras.layers, type(layer).__name__, None)
        or type(layer).__name__ not in configs.LAYERS
        or not all(map(_is_of_keras, _functions(layer)))
    ):
        return None
    if any(not _crosses(one) for one in _inner(layer)):
        return None
    try:
        config = tf.keras.layers.serialize(layer)
        _drop_given_arrays(config)
        found: dict[str, Any] = json.loads(json.dumps(config, default=_plain))
    except (TypeError, ValueError, NotImplementedError):
        return None
    return found


def _inner(layer: Any) -> list[Any]:
    """Layers and cells inside of a wrapper."""
    found = [getattr(layer, name, None) for name in ("layer", "cell", "forward_layer", "backward_layer")]
    return [one for one in [*found, *(getattr(layer, "cells", None) or [])] if isinstance(one, tf.keras.layers.Layer)]


def _functions(layer: Any) -> list[Any]:
    return [getattr(layer, name) for name in _FUNCTIONS if getattr(layer, name, None) is not None]


def _is_of_keras(function: Any) -> bool:
    """Whether a name stands for an activation in Keras, and for the same one in TensorFlow."""
    if isinstance(function, tf.keras.layers.Layer):
        return _crosses(function)
    name = getattr(function, "__name__", "")
    known = getattr(tf.keras.activations, name, None)
    return known is not None and function in (known, getattr(tf.nn, name, None), getattr(tf.math, name, None))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tf.TensorShape):
        return value.as_list()
    if isinstance(value, (tuple, list)) or hasattr(value, "__wrapped__"):
        return list(value)
    raise TypeError(type(value).__name__)


def _drop_given_arrays(config: Any) -> None:
    """Replaces initializers that do not cross: the weights cross themselves."""
    if isinstance(config, (list, tuple)):
        for one in config:
            _drop_given_arrays(one)
    elif isinstance(config, dict):
        for key, value in config.items():
            if key.endswith("_initializer") and value is not None and not _is_plain(value):
                zeros: dict[str, Any] = {
                    "module": "keras.initializers",
                    "class_name": "Zeros",
                    "config": {},
                    "registered_name": None,
                }
                config[key] = zeros
            else:
                _drop_given_arrays(value)


def _is_plain(initializer: Any) -> bool:
    if not isinstance(initializer, dict) or not configs.is_allowed(initializer):
        return False
    if str(initializer.get("module")) != "keras.initializers":
        return False
    return all(isinstance(one, (int, float, str, bool, type(None))) for one in initializer.get("config", {}).values())


def _by_layers(model: Any) -> Any:
    """A model of new layers, with graphs for those that do not cross."""
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
    config = _config_of(layer)
    if config is None:
        raise BadInputError(f"model: layer '{layer.name}' cannot cross", fix="report this")
    return tf.keras.layers.deserialize(config)


def _graph_layers(model: Any) -> dict[int, Any]:
    """By id of a layer that does not cross, what stands for it."""
    found: dict[int, list[Any]] = {}
    for node in _nodes(model):
        if not node.is_input and not _crosses(node.layer):
            found.setdefault(id(node.layer), []).append(node)
    return {key: _graph_layer(nodes[0].layer, [_call_of(node) for node in nodes]) for key, nodes in found.items()}


def _call_of(node: Any) -> tuple[list[Any], Callable[..., Any]]:
    """Specs of what a layer is called with, and the call."""

    def call(tensors: Sequence[Any], training: bool) -> Any:
        given = {str(id(one)): [tensor] for one, tensor in zip(node.keras_inputs, tensors, strict=True)}
        arguments, options = node.map_arguments(given)
        if node.layer._expects_training_arg and options.get("training") is None:
            options["training"] = training
        return node.layer(*arguments, **options)

    return [tf.TensorSpec(one.shape, one.dtype) for one in node.keras_inputs], call


def _whole(model: Any) -> Any:
    """A model of one layer, which is the graph of all of it."""

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
    """Compares two models on made-up rows.

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
