"""Rules by op type: how the rows of an op's outputs follow from those of its inputs.

A rule is a function of an `OpCall` that gives one `Value`, or a list of one for each output. It is called where an
input has rows; where all inputs are public, so are the outputs, without any rule. An op type without a rule is not
proven. A rule may claim rows only if the slice of each output at a place of its axis is computed from the slices of
the same row alone, whatever the values are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from privacy_pipeline.dp.rowwise.bodies import Node
from privacy_pipeline.dp.rowwise.sizes import Count, Dim, depends
from privacy_pipeline.dp.rowwise.values import Kind, Layout, Offence, Value, hides_count, public, rows


class Evaluator(Protocol):
    """What rules of calls, branches and loops need of the interpreter."""

    offences: list[Offence]

    def call(self, function: str, arguments: Sequence[Value]) -> list[Value]:
        """Return the values of what a function returns."""
        ...

    def has_stand_in(self, function: str) -> bool:
        """Return whether TensorFlow may run another function in the place of one."""
        ...

    def drawn(self, key: str, what: str) -> bool:
        """Note what is drawn from a key; return whether it is the first draw from it, or the same once more."""
        ...

    def shapes(self, node: Node, inputs: Sequence[Value]) -> tuple[tuple[Dim, ...] | None, ...]:
        """Return the shape of each output of an op, as far as it follows from what is known of its inputs."""
        ...


@dataclass
class OpCall:
    """One op with what is known of its inputs.

    Attributes:
        node: the op.
        inputs: what is known of its inputs.
        evaluator: the interpreter.
        place: name of the op of the outermost graph that this one is part of.
    """

    node: Node
    inputs: list[Value]
    evaluator: Evaluator
    place: str
    _shapes: tuple[tuple[Dim, ...] | None, ...] | None = None

    @property
    def type(self) -> str:
        """Type of the op."""
        return self.node.type

    def flag(self, name: str) -> bool:
        """Return a Boolean attribute, False where the op has none."""
        return bool(self.node.attr[name].b) if name in self.node.attr else False

    def takes_misfits(self) -> bool:
        """Return whether a comparison gives one truth value where shapes do not fit, instead of failing."""
        return "incompatible_shape_error" in self.node.attr and not self.flag("incompatible_shape_error")

    def number(self, name: str) -> int:
        """Return a whole number among the attributes."""
        return int(self.node.attr[name].i)

    def numbers(self, name: str) -> list[int]:
        """Return a list of whole numbers among the attributes."""
        return [int(value) for value in self.node.attr[name].list.i] if name in self.node.attr else []

    def text(self, name: str) -> str:
        """Return a string among the attributes."""
        return str(self.node.attr[name].s.decode()) if name in self.node.attr else ""

    def whole_numbers(self, attr: str = "T") -> bool:
        """Return whether the op works on integers, as computed indices are."""
        from tensorflow import dtypes

        return attr in self.node.attr and bool(dtypes.as_dtype(self.node.attr[attr].type).is_integer)

    def constant(self, place: int) -> list[Any] | None:
        """Return the numbers of an input that holds a vector or a scalar of known numbers, or None."""
        return None if hides_count(self.inputs[place]) else self.perhaps_constant(place)

    def perhaps_constant(self, place: int) -> list[Any] | None:
        """Return what `constant` does, also for numbers that may differ where there is one row."""
        value = self.inputs[place]
        if value.content is None or (value.kind is Kind.PUBLIC and any(map(depends, value.content.flat))):
            return None  # public numbers of which some are not known
        return list(value.content.reshape(-1))

    def mixed(self, reason: str) -> Value:
        """Note that the op mixes rows."""
        return self._offend(reason, mixes=True)

    def unknown(self, reason: str) -> Value:
        """Note that no rule covers what the op does here."""
        return self._offend(reason, mixes=False)

    def _offend(self, reason: str, *, mixes: bool) -> Value:
        # What is found behind an op without a rule rests on an assumption, and shows nothing.
        mixes = mixes and not any(value.assumed for value in self.inputs)
        offence = Offence(self.place, self.type, reason, mixes)
        self.evaluator.offences.append(offence)
        return Value(Kind.MIXED if mixes else Kind.UNKNOWN, self.static(0), offence=offence)

    def static(self, output: int) -> tuple[Dim, ...] | None:
        """Return the shape of an output as TensorFlow infers it from what is known of the inputs."""
        if self._shapes is None:
            self._shapes = self.evaluator.shapes(self.node, self.inputs)
        return self._shapes[output] if output < len(self._shapes) else None

    def rows(self, layout: Layout, shape: Sequence[Dim] | None = None, *, output: int = 0, **more: Any) -> Value:
        """Return an output of rows; sizes that are not given are those that TensorFlow infers."""
        inferred = self.static(output)
        if shape is None and inferred is None:
            return self.unknown("its output has no known rank")
        sizes: list[Dim] = list(shape if shape is not None else inferred or ())
        if inferred is not None and len(inferred) == len(sizes):
            sizes = [known if size is None else size for size, known in zip(sizes, inferred, strict=True)]
        if not 0 <= layout.axis < len(sizes):
            return self.unknown("its output has no axis of rows")
        if inferred is not None and len(inferred) == len(sizes) and isinstance(inferred[layout.axis], int):
            return self.unknown("its axis of rows has a size of its own")
        if any(isinstance(size, Count) for axis, size in enumerate(sizes) if axis != layout.axis):
            return self.mixed("it repeats values of a row as often as there are rows")
        made = rows(tuple(sizes), layout, **more)
        return replace(made, assumed=any(value.assumed for value in self.inputs))

    def public(self, output: int = 0) -> Value:
        """Return an output that depends on no row."""
        return public(self.static(output))

    def with_rows(self) -> list[Value]:
        """Return inputs that have rows."""
        return [value for value in self.inputs if value.kind is Kind.ROWS]


Result = Value | list[Value]
Rule = Callable[[OpCall], Result]

RULES: dict[str, Rule] = {}
RAW: set[str] = set()  # types whose rules see inputs of every kind
# Types whose rules look at the span of their inputs; all others refuse indices of rows.
INDEXING = frozenset(
    {
        *("Add", "AddV2", "Mul", "Cast", "Identity", "StopGradient", "Reshape", "ExpandDims", "Squeeze", "Transpose"),
        *("ZerosLike", "ScatterNd", "UnsortedSegmentSum", "GatherV2"),
    }
)
# Types whose rules look for numbers of rows among their inputs; all others refuse them.
COUNTING: set[str] = {
    *("Reshape", "BroadcastTo", "Tile", "ConcatV2", "Pack", "Slice", "StridedSlice", "StridedSliceGrad", "GatherV2"),
    *("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "ScatterNd", "UnsortedSegmentSum"),
    *("Conv2DBackpropInput", "Conv3DBackpropInputV2", "DepthwiseConv2dNativeBackpropInput"),
    *("AvgPoolGrad", "AvgPool3DGrad", "Select", "AddN", "Sum", "TopK", "TopKV2"),
}


def rule(*types: str, raw: bool = False) -> Callable[[Rule], Rule]:
    """Register a function as the rule of some op types.

    Args:
        types: the op types.
        raw: call the rule whatever the kinds of the inputs are.

    Raises:
        ValueError: a type has a rule.
    """

    def register(function: Rule) -> Rule:
        for op_type in types:
            if op_type in RULES:
                raise ValueError(f"{op_type} has a rule")
            RULES[op_type] = function
            if raw:
                RAW.add(op_type)
        return function

    return register
