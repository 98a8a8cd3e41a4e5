"""Whether the tensors that a private step clips by example are rows of the batch, in one traced graph."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from privacy_pipeline.dp.graphs.tracing import unconverted
from privacy_pipeline.dp.rowwise.bodies import Reference, body_of_graph
from privacy_pipeline.dp.rowwise.interpreter import Interpreter
from privacy_pipeline.dp.rowwise.values import Kind, Layout, Offence, Value, rows

_Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Isolation:
    """Tensors that the engine computed row by row, in a loop over batches of one.

    Attributes:
        inputs: tensors whose row i the loop sees in round i.
        outputs: tensors whose row i it made in round i; or one sum over the rows.
        by_loop: whether a loop made them; else ops of the engine's own did.
        numbered: whether an input may be the place of each row, by which a row has random draws of its own.
        summed: whether the loop sums up over the rows.
    """

    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    by_loop: bool = True
    numbered: bool = False
    summed: bool = False


@dataclass(frozen=True)
class Proof:
    """What the rules show of a graph.

    Attributes:
        offences: ops for which no rule shows that they keep rows apart, or a rule shows that they do not; none if
            the targets are proven to be rows.
        ops: number of ops looked at.
    """

    offences: tuple[Offence, ...]
    ops: int

    @property
    def proven(self) -> bool:
        """Whether every target is rows."""
        return not self.offences

    @property
    def mixing(self) -> tuple[Offence, ...]:
        """Ops that mix rows by a rule."""
        return tuple(offence for offence in self.offences if offence.mixes)


_ISOLATED: WeakKeyDictionary[Any, list[Isolation]] = WeakKeyDictionary()
_CAPTURED: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()
_NOTED: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()
_KEYS: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()
_PROOFS: dict[str, Proof] = {}
_MOST_PROOFS = 256
_LOOPS = ("While", "StatelessWhile")


@unconverted
def mark_isolated(inputs: Iterable[Any], outputs: Iterable[Any], **how: bool) -> None:
    """Note tensors that a loop of the engine made of one row each; see `Isolation`, whose attributes `how` gives."""
    held = tuple(outputs)
    if not held or not hasattr(held[0], "graph"):
        return
    isolation = Isolation(tuple(inputs), held, **how)
    _ISOLATED.setdefault(held[0].graph, []).append(isolation)
    if isolation.by_loop:
        op = held[0].op
        while op.type not in _LOOPS:
            op = op.inputs[0].op
        for tensor in op.inputs:
            _note_captured(tensor)


def _note_captured(tensor: Any) -> None:
    """Note what a loop in the body of another loop takes from outside of both: it has to be public."""
    outside = tensor
    while hasattr(outside, "graph") and outside.op.type == "Placeholder":
        found = next((outer for outer, inner in outside.graph.captures if inner is outside), None)
        if found is None:
            break
        outside = found
    if outside is not tensor and hasattr(outside, "graph") and outside.dtype.name != "resource":
        _CAPTURED.setdefault(outside.graph, []).append(outside)


@unconverted
def note_targets(tensors: Iterable[Any]) -> None:
    """Note tensors of the graph that is being traced whose rows have to be proven; see `targets_of`."""
    for tensor in tensors:
        if hasattr(tensor, "graph"):
            _NOTED.setdefault(tensor.graph, []).append(tensor)


@unconverted
def note_key(tensor: Any) -> None:
    """Note a tensor of the graph that is being traced as the secret seed of what the step draws."""
    if hasattr(tensor, "graph"):
        _KEYS.setdefault(tensor.graph, []).append(tensor)


def targets_of(graph: Any) -> list[Any]:
    """Return the tensors of a graph that were noted."""
    return list(_NOTED.get(graph, []))


def _reference(tensor: Any) -> Reference:
    return tensor.op.name, tensor.value_index


def _shape(tensor: Any) -> _Shape | None:
    return None if tensor.shape.rank is None else tuple(tensor.shape.as_list())


@dataclass
class _Prover:
    graph: Any
    definition: Any
    values: dict[Reference, Value]
    layouts: tuple[Layout, ...]
    body: Any = None
    found: list[Offence] = field(default_factory=list)

    def run(self, targets: Sequence[Any]) -> Proof:
        self.body = body_of_graph(self.definition)
        interpreter = Interpreter({one.signature.name: one for one in self.definition.library.function})
        for isolation in _ISOLATED.get(self.graph, []):
            self._isolated(interpreter, isolation)
        captured = _CAPTURED.get(self.graph, [])
        for tensor, value in zip(
            captured, interpreter.run(self.body, [_reference(one) for one in captured], self.values), strict=True
        ):
            if value.kind is not Kind.PUBLIC or value.assumed:
                self.found.append(
                    Offence(tensor.op.name, tensor.op.type, "a loop over rows takes a whole batch", False)
                )
        wanted = [_reference(target) for target in targets]
        for target, value in zip(targets, interpreter.run(self.body, wanted, self.values), strict=True):
            self._require(target, value)
        # All ops without a rule are reported at once; a target that rests on one of them adds nothing.
        named = [offence for offence in self.found if offence.mixes]
        named += [offence for offence in interpreter.offences if not offence.mixes]
        return Proof(tuple(dict.fromkeys(named or self.found)) if self.found else (), len(self.values))

    def _isolated(self, interpreter: Interpreter, isolation: Isolation) -> None:
        wanted = [_reference(tensor) for tensor in isolation.inputs]
        found = [] if isolation.summed else interpreter.run(self.body, wanted, self.values)
        for tensor, value in zip(isolation.inputs, found, strict=not isolation.summed):
            self._require(tensor, value, numbered=isolation.numbered)
        if isolation.by_loop:
            self._require_one_row(interpreter, isolation)
        else:
            self._require_no_other_rows(isolation)
        for tensor in () if isolation.summed else isolation.outputs:
            self.values[_reference(tensor)] = rows(_shape(tensor) or (None,), Layout(0))

    def _require(self, tensor: Any, value: Value, *, numbered: bool = False) -> None:
        apart = value.kind is Kind.ROWS and value.layout in self.layouts and not (value.assumed or value.loose)
        if apart and (numbered or not value.span):
            return
        offence = value.offence or Offence(
            tensor.op.name, tensor.op.type, f"its rows do not lie along its first axis ({value.kind.value})", False
        )
        self.found.append(offence)

    def _require_one_row(self, interpreter: Interpreter, isolation: Isolation) -> None:
        """Check a loop over rows: of the batch it may take its inputs, a row in each round, and how many rows
        there are.
        """
        given = {_reference(tensor) for tensor in isolation.inputs}
        node = self.body.nodes[isolation.outputs[0].op.name]
        while node.type not in _LOOPS:
            node = self.body.nodes[node.inputs[0][0]]
        for place, source in enumerate(node.inputs):
            made_by = self.body.nodes[source[0]]
            own = made_by.type == "TensorListFromTensor" and made_by.inputs[0] in given
            own |= made_by.type in ("TensorListReserve", "EmptyTensorList") or (isolation.summed and source in given)
            if own:
                continue
            value = interpreter.run(self.body, [source], self.values)[0]
            counts = value.kind is Kind.COUNT and interpreter.hands_on(node, place)
            if value.assumed or (not counts and value.kind is not Kind.PUBLIC):
                reason = "a loop over rows takes a whole batch"
                self.found.append(value.offence or Offence(source[0], made_by.type, reason, False))

    def _require_no_other_rows(self, isolation: Isolation) -> None:
        """Check a loop over rows: it may take nothing of the batch but by its inputs."""
        given = {_reference(tensor) for tensor in isolation.inputs}
        stack = [_reference(tensor) for tensor in isolation.outputs]
        seen: set[str] = set()
        while stack:
            one = stack.pop()
            value = self.values.get(one)
            if one in given or one[0] in seen or _is_public(value):
                continue
            node = self.body.nodes[one[0]]
            if value is not None and node.type == "Placeholder":
                self.found.append(Offence(one[0], node.type, "a loop over rows takes a whole batch", False))
                continue
            seen.add(one[0])
            stack.extend(node.inputs)


def _is_public(value: Value | None) -> bool:
    return value is not None and value.kind in (Kind.PUBLIC, Kind.COUNT) and not value.assumed


def _of_variable(tensor: Any) -> _Shape | None:
    """Return the shape of the values of a variable, by its handle; None for other tensors, and where it may change."""
    from tensorflow.python.ops import handle_data_util

    held = handle_data_util.get_resource_handle_data(tensor) if tensor.dtype.name == "resource" else None
    if held is None or not held.is_set or len(held.shape_and_type) != 1:
        return None
    shape = held.shape_and_type[0].shape
    fixed = not shape.unknown_rank and all(dim.size >= 0 for dim in shape.dim)
    return tuple(dim.size for dim in shape.dim) if fixed else None


@unconverted
def prove(
    graph: Any,
    *,
    batch: Sequence[Any],
    targets: Sequence[Any],
    unit: int = 1,
    elsewhere: Sequence[Any] = (),
    known: Sequence[Any] = (),
) -> Proof:
    """Prove that tensors of a graph are rows of its batch, or return the ops that stand in the way.

    Args:
        graph: a `FuncGraph`.
        batch: those of its inputs whose first axis is the rows.
        targets: tensors of the graph, [batch, ...] or [units, ...].
        unit: rows that belong to one unit and follow one another; what is proven holds for units.
        elsewhere: those of its inputs that hold values of rows, but not by row: parts of a sparse tensor, for one.
        known: tensors inside the graph that the caller has found to be rows, along the first axis.
    """
    definition = graph.as_graph_def(add_shapes=True)
    own = {_reference(tensor) for tensor in batch}
    strewn = {_reference(tensor) for tensor in elsewhere}
    keys = {_reference(tensor) for tensor in _KEYS.get(graph, [])}
    found = {_reference(tensor): rows(_shape(tensor) or (None,), Layout(0)) for tensor in known}
    names = [_reference(tensor) for tensor in targets]
    marks = [
        [[_reference(t) for t in side] for side in (m.inputs, m.outputs)] + [m.by_loop, m.numbered, m.summed]
        for m in _ISOLATED.get(graph, [])
    ]
    marks += [[[_reference(tensor)] for tensor in _CAPTURED.get(graph, [])]]
    text = f"{sorted(own)}{sorted(strewn)}{names}{marks}{unit}{sorted(keys)}{sorted(found)}".encode()
    key = hashlib.sha256(definition.SerializeToString(deterministic=True) + text).hexdigest()
    if key not in _PROOFS:
        values: dict[Reference, Value] = dict(found)
        for tensor in graph.inputs:
            one, shape = _reference(tensor), _shape(tensor)
            if one in strewn:
                offence = Offence(tensor.op.name, tensor.op.type, "its values do not lie by row", False)
                values[one] = Value(Kind.UNKNOWN, shape, offence=offence)
            elif one in own and shape:
                values[one] = rows(shape, Layout(0, 1, unit))
            elif tensor.dtype.name == "resource":
                values[one] = Value(Kind.PUBLIC, (), held=_of_variable(tensor))
            else:
                values[one] = Value(Kind.PUBLIC, shape, key=f"seed {one}" if one in keys else "")
        if len(_PROOFS) >= _MOST_PROOFS:
            _PROOFS.clear()
        _PROOFS[key] = _Prover(graph, definition, values, (Layout(0), Layout(0, 1, unit))).run(targets)
    return _PROOFS[key]
