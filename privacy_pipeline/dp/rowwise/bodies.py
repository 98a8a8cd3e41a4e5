"""Graphs and functions as lists of nodes, read from their definitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from privacy_pipeline.dp.rowwise.sizes import Dim

Reference = tuple[str, int]  # name of a node or an argument, and which of its outputs


@dataclass(frozen=True)
class Node:
    """One op.

    Attributes:
        name: its name.
        type: its type.
        inputs: the tensors it takes.
        attr: its attributes.
        shapes: static shape of each output as TensorFlow infers it; None where the rank is not known.
        outputs: number of outputs.
    """

    name: str
    type: str
    inputs: tuple[Reference, ...]
    attr: Mapping[str, Any]
    shapes: tuple[tuple[Dim, ...] | None, ...]
    outputs: int


@dataclass(frozen=True)
class Body:
    """A graph, or the body of a function.

    Attributes:
        nodes: ops by name.
        arguments: names of the arguments; of a graph, none.
        returns: what a function returns.
        stated: the shapes that a function states of its arguments, each a `TensorShapeProto` or None; of a graph, none.
    """

    nodes: Mapping[str, Node]
    arguments: tuple[str, ...]
    returns: tuple[Reference, ...]
    stated: tuple[Any, ...] = ()


@cache
def _definition(op_type: str) -> Any:
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(op_type)


def is_stateful(op_type: str) -> bool:
    """Return whether ops of a type have state or side effects, as TensorFlow declares; True for an unknown type."""
    known = _definition(op_type)
    return known is None or bool(known.is_stateful)


def _length(output: Any, attr: Mapping[str, Any]) -> int:
    if output.number_attr:
        return int(attr[output.number_attr].i)
    if output.type_list_attr:
        return len(attr[output.type_list_attr].list.type)
    return 1


def _outputs(node: Any, library: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the names and lengths of the outputs of an op, or of a function that is called by its own name."""
    known = library[node.op].signature if node.op in library else _definition(node.op)
    for output in known.output_arg if known is not None else ():
        yield output.name, _length(output, node.attr)


def _shapes(node: Any, count: int) -> tuple[tuple[Dim, ...] | None, ...]:
    found: list[tuple[Dim, ...] | None] = [None] * count
    for place, shape in enumerate(node.attr["_output_shapes"].list.shape if "_output_shapes" in node.attr else ()):
        if place < count and not shape.unknown_rank:
            found[place] = tuple(None if dim.size < 0 else int(dim.size) for dim in shape.dim)
    return tuple(found)


def _node(node: Any, inputs: Sequence[Reference], library: Mapping[str, Any]) -> Node:
    count = sum(length for _, length in _outputs(node, library))
    return Node(node.name, node.op, tuple(inputs), node.attr, _shapes(node, count), count)


def _graph_reference(text: str) -> Reference:
    name, _, place = text.partition(":")
    return name, int(place or 0)


def body_of_graph(definition: Any) -> Body:
    """Return the body of a `GraphDef`."""
    library = {function.signature.name: function for function in definition.library.function}
    nodes = {
        node.name: _node(node, [_graph_reference(text) for text in node.input if not text.startswith("^")], library)
        for node in definition.node
    }
    return Body(nodes, (), ())


def body_of_function(definition: Any, library: Mapping[str, Any]) -> Body:
    """Return the body of a `FunctionDef`.

    Args:
        definition: the function.
        library: definitions of all functions by name.
    """
    starts: dict[str, dict[str, int]] = {}
    for node in definition.node_def:
        start, own = 0, {}
        for name, length in _outputs(node, library):
            own[name] = start
            start += length
        starts[node.name] = own

    def reference(text: str) -> Reference:
        parts = text.split(":")
        if len(parts) == 1:
            return parts[0], 0
        return parts[0], starts[parts[0]][parts[1]] + int(parts[2] if len(parts) > 2 else 0)

    nodes = {
        node.name: _node(node, [reference(text) for text in node.input if not text.startswith("^")], library)
        for node in definition.node_def
    }
    arguments = tuple(argument.name for argument in definition.signature.input_arg)
    returns = tuple(reference(definition.ret[output.name]) for output in definition.signature.output_arg)
    return Body(nodes, arguments, returns, tuple(_stated(definition, place) for place in range(len(arguments))))


def _stated(definition: Any, place: int) -> Any:
    """Return the shape that a function states of an argument, by which TensorFlow rewrites its body."""
    attr = definition.arg_attr[place].attr if place in definition.arg_attr else {}
    shapes: Sequence[Any] = attr["_output_shapes"].list.shape if "_output_shapes" in attr else []
    return shapes[0] if len(shapes) == 1 else None


def ancestors(body: Body, wanted: Sequence[Reference], known: Mapping[Reference, Any]) -> list[Node]:
    """Return the nodes that some tensors are computed from, in an order in which they can be computed."""
    order: list[Node] = []
    done: set[str] = set()
    stack = [(name, False) for name, place in reversed(wanted) if (name, place) not in known]
    while stack:
        name, ready = stack.pop()
        if ready:
            order.append(body.nodes[name])
            continue
        if name in done or name not in body.nodes:
            continue
        done.add(name)
        stack.append((name, True))
        needed = [one for one in body.nodes[name].inputs if one not in known]
        stack.extend((source, False) for source, _ in needed if source not in done)
    return order
