"""In the build: a traced graph as JSON values of a `replay.Program`, and the contents of the tables that it reads.

Runs beside code of the user's. Nothing here is trusted by the side that takes it over.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from privacy_pipeline.dp.graphs.tracing import as_it_is
from privacy_pipeline.errors import BadInputError

_FILLS = ("LookupTableImportV2", "InitializeTableV2")


def traced_json(
    function: Callable[..., Any], specs: Sequence[Any], *, weights: Sequence[Any], what: str
) -> dict[str, Any]:
    """Trace a function of tensors as JSON values of a `replay.Program`.

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
    """Return the JSON values of a `replay.Program`, and of the contents of the tables that it reads.

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


def _filled(graph: Any) -> dict[str, dict[str, Any]]:
    """Return the contents of tables that the graph itself fills with constants, by the placeholder of the table."""
    found = {}
    for operation in graph.get_operations():
        if operation.type in _FILLS:
            table, keys, values = operation.inputs
            known = [tf.get_static_value(one) for one in (keys, values)]
            if all(one is not None for one in known):
                found[table.op.name] = _content(*(tf.constant(one) for one in known))
    return found


def _fix_constants(definition: Any, values: Mapping[str, Any], what: str) -> None:
    """Write tensors that a function took from outside of it into its graph."""
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
    """Return the keys and values of a lookup table."""
    for keys, values in ((tf.string, tf.int64), (tf.int64, tf.string), (tf.int64, tf.int64), (tf.string, tf.float32)):
        try:
            found = tf.raw_ops.LookupTableExportV2(table_handle=handle, Tkeys=keys, Tvalues=values)
        except tf.errors.OpError:
            continue
        return _content(found.keys, found.values)
    raise BadInputError(
        f"model: {what} reads a variable or a table that is neither a weight of its layer nor a table of constants",
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
