"""Rules of calls, branches and loops."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest

from privacy_pipeline.dp.rowwise.registry import OpCall, Result, rule
from privacy_pipeline.dp.rowwise.rules.rules_elementwise import believed
from privacy_pipeline.dp.rowwise.sizes import OPAQUE
from privacy_pipeline.dp.rowwise.values import Kind, Value, join, same

_MOST_ROUNDS = 12


def _function(call: OpCall, attr: str) -> str:
    return str(call.node.attr[attr].func.name)


def called(call: OpCall, function: str) -> Result:
    """Return what a function's body gives for a call, if nothing else may run in its place."""
    if call.evaluator.has_stand_in(function):
        return call.unknown("TensorFlow may run another function in its place")
    return call.evaluator.call(function, call.inputs)


@rule("PartitionedCall", "StatefulPartitionedCall", "RemoteCall", raw=True)
def function_call(call: OpCall) -> Result:
    """Return what the function's body gives."""
    return called(call, _function(call, "f"))


@rule("If", "StatelessIf", raw=True)
def branch(call: OpCall) -> Result:
    """Both branches, under a condition that no row decides."""
    condition, arguments = call.inputs[0], call.inputs[1:]
    # Of a vector, TensorFlow asks whether it is empty.
    decides = condition.content is not None and condition.exact and not condition.content.ndim
    known = condition.content.item() if decides else None
    names = [_function(call, "then_branch"), _function(call, "else_branch")]
    if known is not None and known is not OPAQUE:
        return _as_stated(call, call.evaluator.call(names[0 if known else 1], arguments))
    return _under(call, condition, names, arguments)


@rule("Case", "StatelessCase", raw=True)
def case(call: OpCall) -> Result:
    """All branches, under an index that no row decides."""
    names = [str(function.name) for function in call.node.attr["branches"].list.func]
    return _under(call, call.inputs[0], names, call.inputs[1:])


def _under(call: OpCall, condition: Value, names: list[str], arguments: list[Value]) -> Result:
    if condition.kind is not Kind.PUBLIC:
        if condition.kind in (Kind.MIXED, Kind.ROWS) and not condition.assumed:
            return call.mixed("what it computes for each row depends on other rows")
        return call.unknown("which branch it takes is not public")
    found = [call.evaluator.call(name, arguments) for name in names]
    return _as_stated(call, [_joined(call, list(values)) for values in zip(*found, strict=True)])


def _as_stated(call: OpCall, values: list[Value]) -> list[Value]:
    """Return the results; unknown where the op states more of a shape than is proven."""
    stated = call.node.attr["output_shapes"].list.shape if "output_shapes" in call.node.attr else ()
    pairs = zip_longest(values, stated)
    return [value if shape is None else believed(call, value, shape) for value, shape in pairs]


def _joined(call: OpCall, values: list[Value]) -> Value:
    held: Value | None = values[0]
    for value in values[1:]:
        held = None if held is None else join(held, value)
    return call.unknown("its branches lay rows out in different ways") if held is None else held


@rule("While", "StatelessWhile", raw=True)
def loop(call: OpCall) -> Result:
    """Return a fixpoint over the rounds, under a condition that no row decides."""
    state = list(call.inputs)
    body, condition = _function(call, "body"), _function(call, "cond")
    for _ in range(_MOST_ROUNDS):
        before = len(call.evaluator.offences)
        after = call.evaluator.call(body, state)
        joined = [_round(call, old, new) for old, new in zip(state, after, strict=True)]
        if all(same(old, new) for old, new in zip(state, joined, strict=True)):
            return _finished(call, condition, state, after)
        del call.evaluator.offences[before:]  # of a round that was not the last
        state = joined
    return call.unknown("it does not settle")


def _round(call: OpCall, old: Value, new: Value) -> Value:
    joined = join(old, new)
    return call.unknown("its rounds lay rows out in different ways") if joined is None else joined


def _finished(call: OpCall, condition: str, state: list[Value], after: list[Value]) -> Result:
    """Return what a loop gives: `state` holds before each round, `after` at the end of one."""
    decides = call.evaluator.call(condition, state)[0]
    if decides.kind is not Kind.PUBLIC:
        return call.unknown("how often it runs depends on the data or on the number of rows")
    first = call.evaluator.call(condition, call.inputs)[0]
    certain = first.content is not None and first.exact and not first.assumed and first.content.item() is True
    # What a condition rests on that no rule covers, the whole loop rests on.
    found = [replace(value, assumed=value.assumed or decides.assumed) for value in (after if certain else state)]
    return _as_stated(call, found)
