"""All ops of a graph and of the functions it reaches, and where their inputs come from.

Works on the graph's definition, so that bodies of loops, branches and nested functions are looked at as the graph
itself is. A reference follows arguments out to each call of their function.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

_BRANCHES = ("If", "StatelessIf", "Case", "StatelessCase")  # their first input chooses, and is not an argument
_LOOPS = ("While", "StatelessWhile")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_SHAPES = ("Shape", "ShapeN", "Size", "Rank")


@dataclass(frozen=True)
class Place:
    """An op, and the function that holds it.

    Attributes:
        function: name of the function; empty for the graph itself.
        node: the op's `NodeDef`.
    """

    function: str
    node: Any


@dataclass(frozen=True)
class _Call:
    """A node that runs a function.

    Attributes:
        place: the node.
        skipped: inputs before the first argument; None where it is not known which input is which argument.
    """

    place: Place
    skipped: int | None


class Walk:
    """Ops of a graph and of all functions in its library, reached by name or not.

    A function that no op calls is looked at too: the runtime may put it in the place of another one, as it does with
    LSTM and GRU.

    Args:
        graph: `tf.Graph` or the graph of a concrete function.
    """

    def __init__(self, graph: Any) -> None:
        definition = graph.as_graph_def()
        self._arguments = {
            f.signature.name: [a.name for a in f.signature.input_arg] for f in definition.library.function
        }
        self._returns = {
            f.signature.name: [f.ret[a.name] for a in f.signature.output_arg] for f in definition.library.function
        }
        held = {f.signature.name: list(f.node_def) for f in definition.library.function}
        held[""] = list(definition.node)
        self._nodes = {name: {node.name: node for node in nodes} for name, nodes in held.items()}
        self._calls: dict[str, list[_Call]] = {}
        for place in self.places():
            named = [place.node.op] if self.is_function(place.node.op) else []
            for name in (*named, *_called(place.node)):
                self._calls.setdefault(name, []).append(_Call(place, _skipped(place.node)))
        captures = getattr(graph, "captures", ())
        self._captured = {internal.op.name: external for external, internal in captures}

    def places(self) -> Iterator[Place]:
        """Yield all ops."""
        for function, nodes in self._nodes.items():
            for node in nodes.values():
                yield Place(function, node)

    def is_function(self, name: str) -> bool:
        """Return whether an op of this type is a call of a function of the graph."""
        return name in self._arguments

    def path(self, place: Place) -> str:
        """Return the name scopes of an op, with those of the calls that lead to it."""
        parts, seen = [place.node.name], {place.function}
        while place.function:
            calls = self._calls.get(place.function)
            if not calls:
                break
            place = calls[0].place
            if place.function in seen:
                break
            seen.add(place.function)
            parts.append(place.node.name)
        return "/".join(reversed(parts))

    def captured(self, place: Place, index: int) -> list[Any] | None:
        """Return the tensors outside of the graph that an input, a resource, can be.

        Args:
            place: the op.
            index: which of its inputs.

        Returns:
            Captured tensors; None if it can also be something else.
        """
        found = []
        for source in self._sources(place, place.node.input[index], through=("Identity",)):
            if source is None or source.function or source.node.name not in self._captured:
                return None
            found.append(self._captured[source.node.name])
        return found

    def rest_is_constant(self, place: Place, *, counters: Collection[int] = ()) -> bool:
        """Return whether all inputs but the first are made of constants and shapes alone, through any ops.

        Args:
            place: the op.
            counters: ids of handles of variables that may be read too.
        """
        inputs = [one for one in place.node.input if not one.startswith("^")]
        return all(
            source is not None and (source.node.op in ("Const", *_SHAPES) or self._is_handle(source, counters))
            for one in inputs[1:]
            for source in self._sources(place, one, through=None)
        )

    def _is_handle(self, source: Place, known: Collection[int]) -> bool:
        """Return whether a source is an argument of the graph that stands for one of some captured handles."""
        return not source.function and id(self._captured.get(source.node.name)) in known

    def _sources(self, place: Place, reference: str, *, through: tuple[str, ...] | None) -> Iterator[Place | None]:
        """Return where a value comes from: ops that are not passed through, None for what is not known.

        Args:
            place: an op of the function in which the reference stands.
            reference: an input as the definition has it.
            through: types of ops that are passed through; None for all that have inputs but those of shapes.
        """
        waiting, seen = [(place.function, reference)], set()
        while waiting:
            function, reference = waiting.pop()
            name = reference.partition(":")[0]
            if (function, name) in seen:
                continue
            seen.add((function, name))
            node = self._nodes[function].get(name)
            if node is None:
                outside = self._passed(function, name)
                if outside is None:
                    yield None
                else:
                    waiting.extend(outside)
                continue
            inputs = [one for one in node.input if not one.startswith("^")]
            passes = node.op in through if through is not None else bool(inputs) and node.op not in _SHAPES
            if passes and not self.is_function(node.op) and not _called(node):
                waiting.extend((function, one) for one in inputs)
            else:
                yield Place(function, node)

    def _passed(self, function: str, argument: str) -> list[tuple[str, str]] | None:
        """Return what each call passes as an argument, with what a loop's body hands on; None if that is not known."""
        calls = self._calls.get(function)
        if not calls or argument not in self._arguments[function]:
            return None
        index = self._arguments[function].index(argument)
        found = []
        for call in calls:
            if call.skipped is None:
                return None
            node = call.place.node
            found.append((call.place.function, node.input[index + call.skipped]))
            if node.op in _LOOPS:
                body = node.attr["body"].func.name
                found.append((body, self._returns[body][index]))
        return found


def _called(node: Any) -> list[str]:
    """Return the names of the functions that an op's attributes hold."""
    found = []
    for value in node.attr.values():
        if value.HasField("func"):
            found.append(value.func.name)
        elif value.HasField("list"):
            found.extend(func.name for func in value.list.func)
    return found


def _skipped(node: Any) -> int | None:
    if node.op in _BRANCHES:
        return 1
    return 0 if node.op in (*_LOOPS, *_CALLS) or not _called(node) else None
