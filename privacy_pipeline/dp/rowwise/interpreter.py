"""Follows the rows of a batch through the ops of a graph, by abstract interpretation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from privacy_pipeline.dp.rowwise import (  # noqa: F401  (importing the modules registers their rules)
    rules_control,
    rules_elementwise,
    rules_gather,
    rules_lists,
    rules_neural,
    rules_product,
    rules_reduce,
    rules_shape,
    rules_slice,
)
from privacy_pipeline.dp.rowwise.bodies import Body, Reference, ancestors, body_of_function, is_stateful
from privacy_pipeline.dp.rowwise.contents import CREATORS, computed, parsed
from privacy_pipeline.dp.rowwise.registry import INDEXING, RAW, RULES, OpCall
from privacy_pipeline.dp.rowwise.values import Kind, Layout, Offence, Value, of_content, public, rows

# Stateful ops whose results are public where their inputs are: they read what no op of the graph writes.
_READS = frozenset(
    {
        *("VarHandleOp", "ReadVariableOp", "VariableShape", "Placeholder", "PlaceholderWithDefault", "NoOp"),
        *("ResourceGather", "ResourceGatherNd", "LookupTableFindV2", "LookupTableSizeV2", "VarIsInitializedOp"),
        *("AnonymousHashTable", "HashTableV2", "Assert"),
    }
)


@dataclass
class Interpreter:
    """Evaluates tensors of a graph and of the functions it calls.

    Attributes:
        library: definitions of functions by name.
        offences: each op that mixes rows or has no rule, in the order in which they were met.
    """

    library: Mapping[str, Any]
    offences: list[Offence] = field(default_factory=list)
    _bodies: dict[str, Body] = field(default_factory=dict)
    _place: str = ""

    def run(self, body: Body, wanted: Sequence[Reference], values: dict[Reference, Value]) -> list[Value]:
        """What is known of some tensors.

        Args:
            body: the graph or function.
            wanted: the tensors.
            values: what is known of others, such as arguments; what lies before those is not looked at. What is found
                is added.
        """
        outermost = not self._place
        for node in ancestors(body, wanted, values):
            if outermost:
                self._place = node.name
            call = OpCall(node, [values[source] for source in node.inputs], self, self._place)
            for output, value in enumerate(self._outputs(call)):
                values.setdefault((node.name, output), value)
        if outermost:
            self._place = ""
        return [values[one] for one in wanted]

    def call(self, function: str, arguments: Sequence[Value]) -> list[Value]:
        """What is known of the results of a function."""
        if function not in self._bodies:
            self._bodies[function] = body_of_function(self.library[function])
        body = self._bodies[function]
        values = {(name, 0): value for name, value in zip(body.arguments, arguments, strict=True)}
        return self.run(body, body.returns, values)

    def _outputs(self, call: OpCall) -> list[Value]:
        found = self._evaluated(call)
        outputs = found if isinstance(found, list) else [found] * max(1, call.node.outputs)
        if any(value.assumed for value in call.inputs):
            outputs = [replace(value, assumed=True) for value in outputs]
        return [self._assumed(call, output, value) for output, value in enumerate(outputs)]

    def _assumed(self, call: OpCall, output: int, value: Value) -> Value:
        """Goes on behind an op without a rule as if it kept rows along the first axis, to find all such ops at once."""
        shape = call.static(output)
        if value.kind is not Kind.UNKNOWN or value.is_list or not shape or shape[0] is not None:
            return value
        return replace(rows(shape, Layout(0), offence=value.offence), assumed=True)

    def _evaluated(self, call: OpCall) -> Value | list[Value]:
        if call.type == "Const":
            content = parsed(call.node)
            return public(call.static(0)) if content is None else of_content(content)
        if call.type in RAW:
            return RULES[call.type](call)
        for kind in (Kind.MIXED, Kind.UNKNOWN):
            bad = next((value for value in call.inputs if value.kind is kind), None)
            if bad is not None:
                return [
                    Value(kind, call.static(output), offence=bad.offence) for output in range(max(1, call.node.outputs))
                ]
        if call.type in self.library:  # a function that is called by its own name
            return self.call(call.type, call.inputs)
        if any(value.kind is Kind.ROWS or value.is_list for value in call.inputs):
            if call.type not in RULES:
                return call.unknown("no rule covers this op")
            if call.type not in INDEXING and any(value.span for value in call.inputs):
                return call.unknown("it computes with the place of rows")
            return RULES[call.type](call)
        return self._without_rows(call)

    def _without_rows(self, call: OpCall) -> Value | list[Value]:
        counted = any(value.kind is Kind.COUNT for value in call.inputs)
        if counted and call.type in CREATORS:
            made = CREATORS[call.type](call)
            if made is not None:
                return made
        contents = computed(call)
        if contents is not None:
            return [of_content(content) for content in contents]
        if is_stateful(call.type) and call.type not in _READS and call.type not in RULES:
            return call.unknown("no rule covers this op, which has state")
        kind = Kind.COUNT if counted else Kind.PUBLIC
        keyed = any(value.keyed for value in call.inputs)
        return [Value(kind, call.static(output), keyed=keyed) for output in range(max(1, call.node.outputs))]
