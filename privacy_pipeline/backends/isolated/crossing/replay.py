"""Runs a graph that crossed from a build, op by op, with TensorFlow's own functions: no code of a user's is called.

So the ops become part of whatever is being traced: they have gradients, are vectorised and proven like any others.
Weights and tables are the caller's; the graph reads them through the names that its captures have.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import graph_pb2
from tensorflow.python.framework import op_def_registry

from privacy_pipeline.backends.isolated.crossing import ops
from privacy_pipeline.backends.isolated.crossing.one_op import BrokenGraph, computed, of_weight
from privacy_pipeline.errors import BadInputError

_MOST_NODES = 200_000
_MOST_VALUES = 1 << 28  # of a constant
_DEEPEST = 50  # calls inside of calls


@dataclass(frozen=True, kw_only=True)
class Program:
    """A graph whose ops are allowed.

    Attributes:
        nodes: its ops, each after those it reads.
        functions: what it calls, by name.
        inputs: names of the placeholders of its inputs.
        weights: place among the caller's weights, by the name of the placeholder that stands for it.
        tables: the same of the caller's tables.
        outputs: names of its outputs.
    """

    nodes: tuple[Any, ...]
    functions: Mapping[str, Any]
    inputs: tuple[str, ...]
    weights: Mapping[str, int]
    tables: Mapping[str, int]
    outputs: tuple[str, ...]

    @classmethod
    def parsed(cls, value: Any, *, what: str) -> Program:
        """Return a program from JSON values that a user's code may have written.

        Args:
            value: what `trace.to_json` made.
            what: the part of the model that it is, for messages.

        Raises:
            BadInputError: it has ops that are not allowed, or is not a program.
        """
        try:
            graph = graph_pb2.GraphDef.FromString(base64.b64decode(value["graph"], validate=True))
            program = cls(
                nodes=tuple(graph.node),
                functions={one.signature.name: one for one in graph.library.function},
                inputs=tuple(map(str, value["inputs"])),
                weights={str(name): int(place) for name, place in value["weights"].items()},
                tables={str(name): int(place) for name, place in value["tables"].items()},
                outputs=tuple(map(str, value["outputs"])),
            )
        except (ValueError, KeyError, TypeError, AttributeError, DecodeError):
            raise BadInputError(f"model: {what} is not a graph", fix="let build_model return its model alone") from None
        nodes = [*program.nodes, *(node for one in program.functions.values() for node in one.node_def)]
        ops.require_allowed(nodes, what=what)
        if len(nodes) > _MOST_NODES or any(_is_absurd(node) for node in nodes if node.op == "Const"):
            raise BadInputError(f"model: {what} is too large a graph", fix="make it of fewer ops and smaller constants")
        return program


def _is_absurd(node: Any) -> bool:
    count = 1
    for dim in node.attr["value"].tensor.tensor_shape.dim:
        count *= max(0, dim.size)
    return count > _MOST_VALUES


def run(
    program: Program, inputs: Sequence[Any], *, weights: Sequence[Any] = (), tables: Sequence[Any] = ()
) -> list[Any]:
    """Return what a program gives.

    Args:
        program: the program.
        inputs: tensors, one for each of its inputs.
        weights: variables.
        tables: handles of lookup tables.

    Returns:
        Tensors, one for each of its outputs.

    Raises:
        BadInputError: it is not a graph that TensorFlow traced.
    """
    try:
        given = dict(zip(program.inputs, inputs, strict=True))
        given |= {name: weights[place] for name, place in program.weights.items()}
        given |= {name: tables[place] for name, place in program.tables.items()}
        values = _Values(program.functions, {(name, "output", 0): value for name, value in given.items()}, depth=0)
        values.run([node for node in program.nodes if node.name not in given])
        return [values.at(name) for name in program.outputs]
    except (BrokenGraph, IndexError, KeyError, TypeError, ValueError, NotImplementedError, tf.errors.OpError) as error:
        text = str(error).strip().splitlines()
        raise BadInputError(
            f"model: a graph of your module cannot be run: {text[0][:300] if text else type(error).__name__}",
            fix="report this with the layer or function that made it",
        ) from error


class _Values:
    """Values of a graph, by (op, output argument, place in it)."""

    def __init__(self, functions: Mapping[str, Any], given: dict[tuple[str, str, int], Any], *, depth: int) -> None:
        if depth > _DEEPEST:
            raise BrokenGraph("functions call one another without end")
        self._functions, self._depth = functions, depth
        self._named = given
        self._flat: dict[str, list[Any]] = {}
        for (name, _, _), value in given.items():
            self._flat[name] = [value]

    def run(self, nodes: Sequence[Any]) -> None:
        """Compute ops in the order in which each comes after what it reads."""
        for node in _ordered(nodes, known=self._flat):
            inputs = [self.at(name) for name in node.input if not name.startswith("^")]
            self._note(node, self._outputs(node, inputs))

    def at(self, name: str) -> Any:
        """Return the value of "op", "op:place" (as graphs name it) or "op:argument:place" (as functions do)."""
        parts = name.split(":")
        if len(parts) == 3:
            return self._named[parts[0], parts[1], int(parts[2])]
        return self._flat[parts[0]][int(parts[1]) if len(parts) == 2 else 0]

    def _note(self, node: Any, outputs: list[list[Any]]) -> None:
        definition = op_def_registry.get(node.op)
        self._flat[node.name] = [one for part in outputs for one in part]
        for argument, part in zip(definition.output_arg, outputs, strict=True):
            for place, one in enumerate(part):
                self._named[node.name, argument.name, place] = one

    def _outputs(self, node: Any, inputs: list[Any]) -> list[list[Any]]:
        """Return the outputs of a node by output argument."""
        if node.op in ops.CALLS:
            return [self._call(node.attr["f"].func.name, inputs)]
        if node.op in ops.BRANCHES:
            return [self._branch(node, inputs)]
        if node.op in ops.LOOPS:
            return [self._loop(node, inputs)]
        if node.op in ops.WEIGHT_OPS:
            return of_weight(node, inputs)
        return computed(node, inputs)

    def _call(self, name: str, inputs: Sequence[Any]) -> list[Any]:
        function = self._functions[name]
        arguments = [argument.name for argument in function.signature.input_arg]
        given = {(one, "output", 0): value for one, value in zip(arguments, inputs, strict=True)}
        values = _Values(self._functions, given, depth=self._depth + 1)
        values.run(function.node_def)
        return [values.at(function.ret[argument.name]) for argument in function.signature.output_arg]

    def _branch(self, node: Any, inputs: Sequence[Any]) -> list[Any]:
        condition, *rest = inputs
        then, other = node.attr["then_branch"].func.name, node.attr["else_branch"].func.name
        return list(
            tf.cond(tf.cast(condition, tf.bool), lambda: self._call(then, rest), lambda: self._call(other, rest))
        )

    def _loop(self, node: Any, inputs: Sequence[Any]) -> list[Any]:
        """Run a loop: resources do not change from one round to the next; all else does."""
        moving = [place for place, value in enumerate(inputs) if tf.is_tensor(value) and _is_plain(value)]
        condition, body = node.attr["cond"].func.name, node.attr["body"].func.name
        shapes = [tf.TensorShape(shape) for shape in node.attr["output_shapes"].list.shape]

        def all_of(values: Sequence[Any]) -> list[Any]:
            found = list(inputs)
            for place, value in zip(moving, values, strict=True):
                found[place] = value
            return found

        def after(*values: Any) -> list[Any]:
            made = self._call(body, all_of(values))
            return [made[place] for place in moving]

        ended = tf.while_loop(
            lambda *values: self._call(condition, all_of(values))[0],
            after,
            [inputs[place] for place in moving],
            shape_invariants=[shapes[place] for place in moving] if shapes else None,
        )
        return all_of(ended)


def _is_plain(value: Any) -> bool:
    return not isinstance(value, tf.Variable) and value.dtype != tf.resource


def _ordered(nodes: Sequence[Any], *, known: Mapping[str, Any]) -> Iterator[Any]:
    """Yield ops after those they read, else in their own order, which is that of the trace."""
    waiting, done = list(nodes), set(known)
    names = {node.name for node in nodes}
    while waiting:
        later = []
        for node in waiting:
            reads = {name.lstrip("^").partition(":")[0] for name in node.input} & names
            if reads <= done:
                done.add(node.name)
                yield node
            else:
                later.append(node)
        if len(later) == len(waiting):
            raise BrokenGraph("an op reads what comes of it")
        waiting = later
