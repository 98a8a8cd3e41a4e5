"""Follows the rows of a batch through the ops of a graph, by abstract interpretation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from privacy_pipeline.dp.rowwise.bodies import Body, Node, Reference, ancestors, body_of_function, is_stateful
from privacy_pipeline.dp.rowwise.contents.computing import array, computed, is_computed, parsed
from privacy_pipeline.dp.rowwise.contents.creators import CREATORS, draws_alone, is_drawn
from privacy_pipeline.dp.rowwise.contents.numbers import DECIDING
from privacy_pipeline.dp.rowwise.idioms import at_least, compares_with_itself, cut_of, key_of
from privacy_pipeline.dp.rowwise.inference import Inference
from privacy_pipeline.dp.rowwise.registry import COUNTING, INDEXING, RAW, RULES, OpCall
from privacy_pipeline.dp.rowwise.rules import rules_control
from privacy_pipeline.dp.rowwise.rules.rules_elementwise import claims_more
from privacy_pipeline.dp.rowwise.rules.rules_reduce import leaves_unset
from privacy_pipeline.dp.rowwise.sizes import Count, Dim
from privacy_pipeline.dp.rowwise.values import (
    UNNAMED,
    Kind,
    Layout,
    Offence,
    Value,
    hides_count,
    of_content,
    public,
    rows,
)

# Stateful ops whose results are public where their inputs are: they read what no op of the graph writes.
_READS = frozenset(
    {
        *("VarHandleOp", "ReadVariableOp", "VariableShape", "Placeholder", "PlaceholderWithDefault", "NoOp"),
        *("ResourceGather", "ResourceGatherNd", "LookupTableFindV2", "LookupTableSizeV2", "VarIsInitializedOp"),
        *("AnonymousHashTable", "HashTableV2", "Assert"),
    }
)


# Ops that have no rule for rows, and whose results are public where their inputs are. An op that is neither here, nor
# among those with a rule, a computation of sizes or a creator of rows, is not proven, whatever its inputs are.
_PLAIN = frozenset(
    {
        *("LinSpace", "Where", "StatelessRandomGetAlg", "StatelessRandomGetKeyCounter", "DeviceIndex", "UnravelIndex"),
        *("IsTensorFloat32Enabled", "TensorScatterUpdate", "TensorScatterAdd", "SegmentSum", "NonMaxSuppressionV3"),
    }
)

# What may be done with lists beside ops on lists; `call.unknown` of all else.
_ON_LISTS = frozenset(
    {
        *("Identity", "StopGradient", "PreventGradient", "Snapshot", "ZerosLike", "AddN", "If", "StatelessIf", "Case"),
        *("StatelessCase", "While", "StatelessWhile", "PartitionedCall", "StatefulPartitionedCall", "RemoteCall"),
    }
)


# Ops that may take a tensor whose row axis is missing when the batch has one row: they reshape it, or pass it on.
_LOOSE = frozenset(
    {
        *(
            "Reshape",
            "Shape",
            "ShapeN",
            "Size",
            "Rank",
            "Identity",
            "IdentityN",
            "PlaceholderWithDefault",
            "RemoteCall",
        ),
        *("If", "StatelessIf", "Case", "StatelessCase", "While", "StatelessWhile"),
        *("PartitionedCall", "StatefulPartitionedCall"),
    }
)
# Unless all numbers are known, some of the result may be what lay in memory.
_WITH_GAPS = ("DynamicStitch", "ParallelDynamicStitch")
_NEW_LISTS = ("TensorListReserve", "EmptyTensorList", "TensorListFromTensor")


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
    _inference: Inference = field(default_factory=Inference)
    _drawn: dict[str, str] = field(default_factory=dict)
    _place: str = ""

    def run(self, body: Body, wanted: Sequence[Reference], values: dict[Reference, Value]) -> list[Value]:
        """Return what is known of some tensors.

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
        """Return what is known of the results of a function."""
        body = self._body(function)
        given = [self._believed(*one) for one in zip(arguments, body.stated, strict=True)]
        values = {(name, 0): value for name, value in zip(body.arguments, given, strict=True)}
        return self.run(body, body.returns, values)

    def _believed(self, value: Value, stated: Any) -> Value:
        """Return an argument of a function; unknown where the function states more of its shape than is proven."""
        if stated is None or not claims_more(value, stated):
            return value
        offence = Offence(self._place, "function", "it states a shape that is not proven", False)
        self.offences.append(offence)
        return Value(Kind.UNKNOWN, value.shape, offence=offence)

    def _body(self, function: str) -> Body:
        if function not in self._bodies:
            self._bodies[function] = body_of_function(self.library[function], self.library)
        return self._bodies[function]

    def hands_on(self, loop: Node, place: int) -> bool:
        """Return whether the body of a loop does nothing with an argument but to hand it on to the next round."""
        body = self._body(loop.attr["body"].func.name)
        names = {body.arguments[place]}
        for node in body.nodes.values():
            if any(source in names for source, _ in node.inputs):
                if node.type != "Identity" or (node.name, 0) not in body.returns:
                    return False
                names.add(node.name)
        return not any(one[0] in names for index, one in enumerate(body.returns) if index != place)

    def has_stand_in(self, function: str) -> bool:
        """Return whether TensorFlow may run another function in the place of one: Grappler does, for a device it names.

        Keras' recurrent layers have one for GPUs, around a kernel of cuDNN that keeps rows apart.
        """
        implements = self.library[function].attr["api_implements"].s
        if not implements:
            return False
        others = [one for name, one in self.library.items() if name != function]
        others = [one for one in others if one.attr["api_implements"].s == implements]
        return not all(any(node.op.startswith("CudnnRNN") for node in one.node_def) for one in others)

    def drawn(self, key: str, what: str) -> bool:
        """Note what is drawn from a key; return whether it is the first draw from it, or the same once more.

        Two draws of one key have the same numbers at the same places.
        """
        return self._drawn.setdefault(key, what) == what

    def shapes(self, node: Node, inputs: Sequence[Value]) -> tuple[tuple[Dim, ...] | None, ...]:
        """Return the shape of each output of an op, as far as it follows from what is known of its inputs."""
        return self._inference.shapes(node, inputs)

    def _outputs(self, call: OpCall) -> list[Value]:
        found = self._evaluated(call)
        outputs = found if isinstance(found, list) else [found] * max(1, call.node.outputs)
        if any(value.assumed for value in call.inputs):
            outputs = [replace(value, assumed=True) for value in outputs]
        outputs = [self._held_to(call, output, value) for output, value in enumerate(outputs)]
        return [self._assumed(call, output, value) for output, value in enumerate(outputs)]

    def _held_to(self, call: OpCall, output: int, value: Value) -> Value:
        """Return the value; unknown where the graph states another rank, or one size for an axis that the rows
        decide.
        """
        stated = call.node.shapes[output] if output < len(call.node.shapes) else None
        if stated is None or value.shape is None or value.is_list or value.kind in (Kind.MIXED, Kind.UNKNOWN):
            return value
        same = len(stated) == len(value.shape)
        pairs = zip(stated, value.shape, strict=True) if same else ()
        if same and not any(isinstance(size, int) and isinstance(own, Count) for size, own in pairs):
            return value
        return call.unknown("it states a shape that is not proven")

    def _assumed(self, call: OpCall, output: int, value: Value) -> Value:
        """Go on behind an op without a rule as if it kept rows along the first axis, to find all such ops at once."""
        shape = call.node.shapes[output] if output < len(call.node.shapes) else None
        if value.kind is not Kind.UNKNOWN or value.is_list or not shape or shape[0] is not None:
            return value
        return replace(rows(shape, Layout(0), offence=value.offence), assumed=True)

    def _evaluated(self, call: OpCall) -> Value | list[Value]:
        if call.type == "Const":
            content = parsed(call.node)
            held = call.node.attr["value"].tensor.tensor_shape
            shape = tuple(int(dim.size) for dim in held.dim)
            return public(shape) if content is None else of_content(content, exact=True)
        bad = self._bad_form(call)
        if bad is not None:
            return bad
        if call.type in RAW:
            return RULES[call.type](call)
        if call.type == "Minimum" and (cut := cut_of(call)) is not None:
            return cut
        found = self._by_rules(call)
        return at_least(call, found) if call.type == "Maximum" and isinstance(found, list) else found

    def _bad_form(self, call: OpCall) -> Value | None:
        """Return what is wrong with lists where tensors are taken, tensors where lists are, and rows without their
        axis.
        """
        lists = [value.is_list for value in call.inputs]
        if any(lists) and not self._takes_lists(call.type):
            return call.unknown("it takes a list for a tensor")
        if call.type.startswith("TensorList"):
            known = call.inputs[0].kind not in (Kind.MIXED, Kind.UNKNOWN)
            if any(lists[1:]) or (lists[0] if call.type in _NEW_LISTS else known and not lists[0]):
                return replace(call.unknown("it takes a tensor for a list, or a list for an element"), is_list=True)
        if any(value.loose for value in call.inputs) and call.type not in _LOOSE and call.type not in self.library:
            return call.unknown("where there is one row, what it takes has another number of axes")
        return None

    def _takes_lists(self, op_type: str) -> bool:
        return op_type.startswith("TensorList") or op_type in _ON_LISTS or op_type in self.library

    def _by_rules(self, call: OpCall) -> Value | list[Value]:
        if compares_with_itself(call):
            return of_content(array([True], []))
        for kind in (Kind.MIXED, Kind.UNKNOWN):
            bad = next((value for value in call.inputs if value.kind is kind), None)
            if bad is not None:
                return [
                    Value(kind, call.static(output), offence=bad.offence) for output in range(max(1, call.node.outputs))
                ]
        if call.type in self.library:  # a function that is called by its own name
            return rules_control.called(call, call.type)
        if any(value.kind is Kind.ROWS or value.is_list for value in call.inputs):
            if call.type not in RULES:
                return call.unknown("no rule covers this op")
            if call.type not in INDEXING and any(value.span for value in call.inputs):
                return call.unknown("it computes with the place of rows")
            if call.type not in COUNTING and any(value.kind is Kind.COUNT for value in call.inputs):
                return call.unknown("the number of rows enters it")
            if call.type != "Sum":  # the one rule that takes numbers which may be others where there is one row
                call = replace(call, inputs=[_without_hidden(value) for value in call.inputs])
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
            exact = call.type in DECIDING and all(value.exact for value in call.inputs)
            # With one row nothing is spread along its axis, and TensorFlow names one axis less.
            hidden = counted and (call.type == "BroadcastGradientArgs" or any(map(hides_count, call.inputs)))
            known = [of_content(content, exact=exact) for content in contents]
            if not counted:  # what is not known of public numbers is public too
                return [replace(value, kind=Kind.PUBLIC) for value in known]
            return [replace(value, kind=Kind.COUNT) for value in known] if hidden else known
        if is_stateful(call.type) and call.type not in _READS and call.type not in RULES:
            return call.unknown("no rule covers this op, which has state")
        if not (is_computed(call.type) or any(call.type in known for known in (RULES, CREATORS, _READS, _PLAIN))):
            return call.unknown("no rule covers this op")
        if call.type in _WITH_GAPS:
            return call.unknown("a place that it leaves out holds anything")
        if is_drawn(call.type) and not draws_alone(call):
            return call.unknown("it draws the numbers that another op draws from the same seed")
        kind = Kind.COUNT if counted else Kind.PUBLIC
        key = key_of(call) or (UNNAMED if any(value.key for value in call.inputs) else "")
        held = call.inputs[0].held if call.type == "Identity" else None
        found = [Value(kind, call.static(output), key=key, held=held) for output in range(max(1, call.node.outputs))]
        if leaves_unset(call):
            found[1:] = [call.unknown("it leaves this output unset") for _ in found[1:]]
        return found


def _without_hidden(value: Value) -> Value:
    return replace(value, content=None) if hides_count(value) else value
