"""Runs one op of a graph that crossed from a build, by TensorFlow's own function for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_registry


class BrokenGraph(Exception):  # noqa: N818
    """The graph is not one that TensorFlow traced."""


def of_weight(node: Any, inputs: Sequence[Any]) -> list[list[Any]]:
    """Return the outputs of an op that reads or writes a weight, by output argument.

    Args:
        node: its `NodeDef`; it is one of `ops.WEIGHT_OPS`.
        inputs: the weight, and what else it takes.

    Raises:
        BrokenGraph: it reads another resource.
    """
    weight = inputs[0]
    if not isinstance(weight, tf.Variable):
        raise BrokenGraph("it reads a resource that is not a weight")
    if node.op == "ReadVariableOp":
        return [[tf.convert_to_tensor(weight)]]
    if node.op == "ResourceGather":
        return [[tf.gather(tf.convert_to_tensor(weight), inputs[1], batch_dims=node.attr["batch_dims"].i)]]
    if node.op == "VariableShape":
        return [
            [tf.shape(weight, out_type=tf.dtypes.as_dtype(node.attr["out_type"].type or tf.int32.as_datatype_enum))]
        ]
    change = {"AssignVariableOp": "assign", "AssignAddVariableOp": "assign_add", "AssignSubVariableOp": "assign_sub"}
    getattr(weight, change[node.op])(inputs[1], read_value=False)
    return []


def computed(node: Any, inputs: Sequence[Any]) -> list[list[Any]]:
    """Return the outputs of any other op, by output argument: those of its own function in `tf.raw_ops`.

    Args:
        node: its `NodeDef`.
        inputs: tensors.

    Raises:
        BrokenGraph: it is not an op of a graph that TensorFlow traced.
    """
    definition = op_def_registry.get(node.op)
    if node.op == "Const":
        return [[tf.constant(tf.make_ndarray(node.attr["value"].tensor), tf.dtypes.as_dtype(node.attr["dtype"].type))]]
    if node.op == "Placeholder":
        raise BrokenGraph("it has an input that nothing gives")
    function, names = _function(node.op)
    arguments: dict[str, Any] = {}
    rest = iter(inputs)
    for argument in definition.input_arg:
        count = _length(argument, node)
        arguments[names[argument.name]] = next(rest) if count is None else [next(rest) for _ in range(count)]
    for attribute in definition.attr:
        if attribute.name in names and attribute.name in node.attr:
            arguments[names[attribute.name]] = _attribute(node.attr[attribute.name])
    made = function(**arguments)
    if not definition.output_arg:
        return []
    if node.op == "LookupTableFindV2" and isinstance(made, tf.Tensor):
        made = tf.ensure_shape(made, inputs[1].shape)  # the handle of a table does not have it
    parts = [made] if len(definition.output_arg) == 1 else list(made)
    return [
        [part] if _length(argument, node) is None else list(part)
        for argument, part in zip(definition.output_arg, parts, strict=True)
    ]


@cache
def _function(op: str) -> tuple[Callable[..., Any], dict[str, str]]:
    """Return a function of `tf.raw_ops`, and its parameters by the names that the op's definition has for them."""
    function, definition = getattr(tf.raw_ops, op), op_def_registry.get(op)
    parameters = [name for name in inspect.signature(function).parameters if name != "name"]
    inputs, attributes = ([one.name for one in part] for part in (definition.input_arg, definition.attr))
    names = {name: name for name in parameters}
    # Python's names of inputs differ for a few ops (`axis` of Sum), and that of one attribute.
    renamed = [name for name in parameters if name not in inputs and name not in attributes]
    names |= dict(zip([name for name in inputs if name not in parameters], renamed, strict=False))
    return function, {**names, "squeeze_dims": "axis"} if op == "Squeeze" else names


def _length(argument: Any, node: Any) -> int | None:
    """Return how many tensors an argument stands for; None where it is one."""
    if argument.number_attr:
        return int(node.attr[argument.number_attr].i)
    if argument.type_list_attr:
        return len(node.attr[argument.type_list_attr].list.type)
    return None


def _attribute(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "list":
        return _listed(value.list)
    if kind == "type":
        return tf.dtypes.as_dtype(value.type)
    if kind == "shape":
        return tf.TensorShape(value.shape)
    if kind in ("i", "f", "b", "s"):
        return getattr(value, kind)
    raise BrokenGraph(f"an op has a {kind} for an attribute")


def _listed(values: Any) -> list[Any]:
    if values.type:
        return [tf.dtypes.as_dtype(one) for one in values.type]
    if values.shape:
        return [tf.TensorShape(one) for one in values.shape]
    return [*values.i, *values.f, *values.b, *values.s]
