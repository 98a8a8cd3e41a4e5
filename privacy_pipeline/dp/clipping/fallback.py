"""Vectorised per-example gradients for layers, or whole models, that have no rule (Subramani et al., 2010.09063)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops

from privacy_pipeline.dp.graphs.tracing import as_it_is, unconverted
from privacy_pipeline.dp.noise.masks import draw_again, draws
from privacy_pipeline.dp.rowwise.proof import mark_isolated
from privacy_pipeline.errors import PipelineError

# Ops with side effects or hidden state that give the same result each time they run on the same values.
_REPEATABLE = frozenset(
    {"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VarHandleOp", "Placeholder", "While", "If", "Assert"}
    | {"StatelessWhile", "StatelessIf", "PartitionedCall", "TensorListReserve"}
)
_SMALLEST_CHUNK = 1


class NeedsWholeModelError(PipelineError):
    """No combination of rules covers this model: its per-example gradients must be computed for the whole of it."""


def chunk_size(variables: Sequence[Any], memory_cap: int) -> int:
    """Return examples whose gradients fit into `memory_cap` bytes together; at least one."""
    bytes_each = sum(variable.shape.num_elements() * variable.dtype.size for variable in variables)
    return max(_SMALLEST_CHUNK, memory_cap // max(1, int(bytes_each)))


def in_chunks(function: Callable[[Any], Any], values: Any, *, size: int, outputs: Any) -> Any:
    """Apply `function` to slices of at most `size` rows, and join the results along the first axis.

    Args:
        function: takes and gives tensors whose first axis is the examples.
        values: nest of tensors, [B, ...].
        size: rows of a slice.
        outputs: nest of `tf.TensorSpec` of one row of each result.
    """
    rows = tf.shape(tf.nest.flatten(values)[0])[0]
    specs = tf.nest.flatten(outputs)
    arrays = [tf.TensorArray(s.dtype, size=0, dynamic_size=True, infer_shape=False) for s in specs]

    def body(start: Any, number: Any, held: Any) -> Any:
        part = tf.nest.map_structure(lambda value: value[start : start + size], values)
        results = tf.nest.flatten(function(part))
        held = [array.write(number, result) for array, result in zip(held, results, strict=True)]
        return start + size, number + 1, held

    _, count, arrays = tf.while_loop(lambda start, number, held: start < rows, body, (0, 0, arrays))
    joined = []
    for array, spec in zip(arrays, specs, strict=True):
        empty = tf.zeros([0, *spec.shape], spec.dtype)
        whole = tf.cond(count > 0, array.concat, lambda empty=empty: empty)
        joined.append(tf.ensure_shape(whole, [None, *spec.shape]))
    return tf.nest.pack_sequence_as(outputs, joined)


def vectorized(function: Callable[[Any], Any], values: Any, variables: Sequence[Any]) -> list[Any]:
    """Apply `function` to each row, vectorised where TensorFlow can do that, and row by row where it cannot.

    Args:
        function: gives one tensor for each variable, in its shape.
        values: nest of tensors, [B, ...].
        variables: the variables.
    """
    drawn = draws()
    try:
        one = _of_any_size(function, values)
        with _no_log():
            return list(tf.vectorized_map(as_it_is(one), values, fallback_to_while_loop=True, warn=False))
    except (TypeError, ValueError, NotImplementedError):
        # Loops over lists of tensors, such as those of recurrent layers, have no vectorised form.
        draw_again(drawn)
        return mapped(function, values, variables)


@contextmanager
def _no_log() -> Iterator[None]:
    """While open, TensorFlow logs nothing: of a loop without a vectorised form it logs each op, a thousand lines."""
    logger = tf.get_logger()
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def mapped(function: Callable[[Any], Any], values: Any, variables: Sequence[Any]) -> list[Any]:
    """Apply `function` to each row, one after the other; see `vectorized`."""
    specs = [tf.TensorSpec(variable.shape, variable.dtype) for variable in variables]
    one = _of_any_size(function, values)
    made = list(tf.map_fn(as_it_is(one), values, fn_output_signature=specs))
    mark_isolated(tf.nest.flatten(values), made, numbered=True)
    return made


def _of_any_size(function: Callable[[Any], Any], values: Any) -> Callable[[Any], Any]:
    """Return a function of a unit's rows, whose number its Python code does not see: it does what it does with any
    batch.

    Else it could compute one thing here, where norms are taken, and another where the batch is added up.
    """
    first = tf.nest.flatten(values)[0]
    if first.shape.rank is None or first.shape.rank < 2 or first.shape[1] is None:
        return function
    rows = tf.minimum(first.shape[1] * tf.shape(first)[0], first.shape[1])  # known only when it runs

    def run(unit: Any) -> Any:
        return function(tf.nest.map_structure(lambda value: value[:rows] if value.shape.rank else value, unit))

    return run


@unconverted
def is_random(graph: Any, known: int = 0) -> bool:
    """Return whether ops that were added to a graph may give another result when they run again."""
    for op in graph.get_operations()[known:]:
        if op.op_def is not None and op.op_def.is_stateful and op.type not in _REPEATABLE:
            return True
    return False


@unconverted
def has_custom_gradient(graph: Any, known: int) -> bool:
    """Return whether ops that were added to a graph, or functions they call, have a gradient that somebody wrote."""
    library = graph.as_graph_def().library
    if library.gradient:
        return True
    functions = {function.signature.name: function for function in library.function}
    nodes = [op.node_def for op in graph.get_operations()[known:]]
    seen: set[str] = set()
    while nodes:
        node = nodes.pop()
        if _has_own_gradient(node, functions):
            return True
        called = [value.func.name for value in node.attr.values() if value.HasField("func")]
        called += [function.name for value in node.attr.values() for function in value.list.func]
        for name in called:
            if name not in seen and name in functions:
                seen.add(name)
                nodes.extend(functions[name].node_def)
    return False


def _has_own_gradient(node: Any, functions: Collection[str]) -> bool:
    """Return whether a node's gradient is not TensorFlow's: set by name for this node, or registered for its type."""
    named = node.attr["_gradient_op_type"].s.decode() if "_gradient_op_type" in node.attr else ""
    calls = node.op in functions or node.op in ("PartitionedCall", "StatefulPartitionedCall")
    if named and not (calls and _is_tensorflows(named)):  # TensorFlow names the gradients of its own calls
        return True
    return not calls and not _is_tensorflows(node.op)


def _is_tensorflows(name: str) -> bool:
    """Return whether what is registered as a gradient, if anything is, is TensorFlow's own."""
    try:
        registered = ops.gradient_registry.lookup(name)
    except LookupError:
        return True
    return registered is None or registered.__module__.partition(".")[0] == "tensorflow"
