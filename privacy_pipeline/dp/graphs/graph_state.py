"""What a graph may keep, show or draw: an allow-list of stateful ops, and a check that what it must not move stayed.

The list stands in `privacy_pipeline.dp.graphs.graph_ops`; this module reads a graph and applies it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from privacy_pipeline.dp.graphs.graph_ops import CUDNN, DRAWS, FINDS, FREE, HIDDEN, WRITES, Kind, reason_of
from privacy_pipeline.dp.graphs.graph_walk import Place, Walk
from privacy_pipeline.errors import BadInputError, PipelineError


@dataclass(frozen=True, kw_only=True)
class RefusedOp:
    """An op that a private graph may not hold.

    Attributes:
        name: its name, with those of the calls that lead to it.
        type: its type.
        kind: whether it `keeps` values, `shows` them, or `draws` what the run's key does not decide.
        why: what is wrong, to be read after the op's name.
        instead: what to use instead.
    """

    name: str
    type: str
    kind: Kind
    why: str
    instead: str


def refused_ops(graph: Any, *, writes: Collection[Any] = (), tables: Collection[Any] = ()) -> list[RefusedOp]:
    """Return all ops of a graph, and of the functions it reaches, that the allow-list does not hold.

    Args:
        graph: `tf.Graph` or the graph of a concrete function.
        writes: variables that the graph may assign; empty for a forward pass.
        tables: lookup tables that hold public values, which the graph may read and not fill.

    Returns:
        One for each op, sorted by name.
    """
    walk = Walk(graph)
    written = {id(variable.handle) for variable in writes}
    counters = {id(variable.handle) for variable in writes if variable.dtype.is_integer}
    read = {id(table.resource_handle) for table in tables}
    found = []
    for place in walk.places():
        if _is_stateful(walk, place.node.op) and not _allowed(walk, place, written, read, counters):
            reason = reason_of(place.node.op, seeded=_is_seeded(place.node))
            found.append(
                RefusedOp(
                    name=walk.path(place),
                    type=place.node.op,
                    kind=reason.kind,
                    why=reason.why,
                    instead=reason.instead,
                )
            )
    return sorted(found, key=lambda op: (op.name, op.type))


def _is_stateful(walk: Walk, kind: str) -> bool:
    """Return whether an op has state, as TensorFlow declares, by what it takes, or because nothing is known of it."""
    from tensorflow.core.framework import types_pb2
    from tensorflow.python.framework import op_def_registry

    declared = op_def_registry.get(kind)
    if declared is None:
        return not walk.is_function(kind)
    arguments = [*declared.input_arg, *declared.output_arg]
    touches = any(one.is_ref or one.type == types_pb2.DT_RESOURCE for one in arguments)
    return bool(declared.is_stateful or touches or HIDDEN.match(kind))


def _allowed(walk: Walk, place: Place, written: set[int], read: set[int], counters: set[int]) -> bool:
    node = place.node
    if node.op in FREE:
        return True
    if node.op in FINDS:
        return _all_in(walk.captured(place, 0), read)
    if WRITES.match(node.op):
        return all(_all_in(walk.captured(place, index), written) for index in _resources(node))
    if node.op in CUDNN:  # Keras' form of LSTM and GRU for other devices; its dropout is off
        return bool(node.attr["dropout"].f == 0)
    if node.op == "Assert":
        return walk.rest_is_constant(place, counters=counters)
    return False


def _is_seeded(node: Any) -> bool:
    return any(node.attr[name].i != 0 for name in ("seed", "seed2") if name in node.attr)


def _resources(node: Any) -> list[int]:
    """Return which inputs of an op that writes variables are variables."""
    from tensorflow.core.framework import types_pb2
    from tensorflow.python.framework import op_def_registry

    declared: Any = op_def_registry.get(node.op)
    return [index for index, one in enumerate(declared.input_arg) if one.type == types_pb2.DT_RESOURCE]


def _all_in(handles: list[Any] | None, known: set[int]) -> bool:
    return handles is not None and len(handles) > 0 and all(id(handle) in known for handle in handles)


def require_stateless(
    graph: Any,
    *,
    model: Any,
    writes: Collection[Any] = (),
    draws: bool = True,
    seeds: bool = False,
    part: str = "its forward pass",
) -> None:
    """Refuse a graph that keeps or shows values of rows.

    Args:
        graph: `tf.Graph` or the graph of a concrete function.
        model: the Keras model that the graph runs; it names layers, and holds the tables that may be read.
        writes: variables that the graph may assign; empty for a forward pass.
        draws: whether random ops that no key decides are let through.
        seeds: whether those of a fixed seed are let through as well, where no guarantee is claimed.
        part: what the graph is, for the message.

    Raises:
        BadInputError: naming op, layer and what to use instead.
    """
    found = refused_ops(graph, writes=writes, tables=static_tables(model))
    found = [op for op in found if not ((draws and op.kind == "draws") or (seeds and op.type in DRAWS))]
    if not found:
        return
    first = found[0]
    layer = _layer_of(first.name, model)
    holder = f"model '{model.name}'" if layer is None else f"model '{model.name}': layer '{layer}'"
    others = sorted({op.type for op in found} - {first.type})
    more = f" (and {', '.join(others)})" if others else ""
    raise BadInputError(f"{holder}: op '{first.name}' ({first.type}) in {part} {first.why}{more}", fix=first.instead)


def state_of(optimizer: Any) -> list[Any]:
    """Return the variables that an optimizer's update may write: slots, count of steps, and the rate of a schedule.

    Keras keeps some of them out of an optimizer's `variables`.
    """
    held = _held(optimizer) if isinstance(optimizer, tf.keras.optimizers.Optimizer) else []
    found = [*optimizer.variables, *(one for one in held if isinstance(one, tf.Variable))]
    return list({id(one): one for one in found}.values())


def static_tables(model: Any) -> list[Any]:
    """Return tables of a model's objects that are filled once, when they are made: `tf.lookup.StaticHashTable`.

    Args:
        model: Keras model. Layers whose tables were filled by `adapt` are for the validator to refuse.
    """
    kinds = (tf.lookup.StaticHashTable, tf.lookup.StaticVocabularyTable)
    # The second is the first with buckets for unknown keys, which it has without one too.
    return [one for one in _held(model) if isinstance(one, kinds)]


def _held(model: Any) -> list[Any]:
    """Return all objects that a model tracks, and would save."""
    from tensorflow.python.checkpoint.graph_view import ObjectGraphView

    return list(ObjectGraphView(model).breadth_first_traversal()[0])


def _layer_of(path: str, model: Any) -> str | None:
    """Return the layer in whose name scope an op stands; Keras numbers the scopes of a layer that is called again."""
    names = {layer.name for layer in model._flatten_layers(include_self=False)}
    for part in reversed(path.split("/")):
        for name in (part, re.sub(r"_\d+$", "", part)):
            if name in names:
                return str(name)
    return None


@dataclass(frozen=True)
class Snapshot:
    """The variables of a model that a training must not move, with a digest of the bits of each."""

    variables: Sequence[Any]
    digests: Sequence[bytes]


def snapshot(model: Any) -> Snapshot:
    """Remember the bits of a model's non-trainable weights.

    Args:
        model: Keras model.
    """
    variables = list(model.non_trainable_weights)
    return Snapshot(variables, [_digest(variable) for variable in variables])


def require_unchanged(before: Snapshot) -> None:
    """Refuse to go on with a model whose non-trainable weights are not as they were.

    Args:
        before: what `snapshot` gave before the training.

    Raises:
        PipelineError: naming a weight that has moved.
    """
    for variable, digest in zip(before.variables, before.digests, strict=True):
        if _digest(variable) != digest:
            raise PipelineError(
                f"weight '{variable.name}' was moved by something other than the private update: it may hold exact "
                "values of private rows, and the model must not be released",
                fix="drop the layer or the callback that assigns it",
            )


def _digest(variable: Any) -> bytes:
    value = variable.numpy()
    held = repr(value.tolist()).encode() if value.dtype == object else np.ascontiguousarray(value).view(np.uint8).data
    return hashlib.sha256(held).digest()
