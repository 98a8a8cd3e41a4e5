"""The rule for any deterministic layer without one of its own: a vector-Jacobian product of this layer alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import tensorflow as tf

from privacy_pipeline.dp.clipping.fallback import (
    NeedsWholeModelError,
    chunk_size,
    has_custom_gradient,
    in_chunks,
    is_random,
    mapped,
    vectorized,
)
from privacy_pipeline.dp.clipping.parts import LazyPart, Part
from privacy_pipeline.dp.clipping.registry import LayerCall
from privacy_pipeline.dp.clipping.row_norms import kept, row_norms, scaled
from privacy_pipeline.dp.clipping.units import in_units
from privacy_pipeline.dp.graphs.tracing import Traced
from privacy_pipeline.dp.noise.masks import draws
from privacy_pipeline.dp.rowwise.proof import prove


def _reject_unrepeatable(call: LayerCall, graph: Any, known: int, drawn: int) -> None:
    layer = call.layer
    if graph is not None and (is_random(graph, known) or draws() != drawn):
        raise NeedsWholeModelError(f"layer '{layer.name}' has no rule and is random or keeps state")
    if list(layer._flatten_layers(recursive=False, include_self=False)) and "training" not in call.kwargs:
        raise NeedsWholeModelError(f"layer '{layer.name}' has no rule, holds layers, and takes no argument `training`")


def tensors_of(nest: Any) -> list[Any]:
    """Return the tensors of a nest, in order."""
    return [value for value in tf.nest.flatten(nest) if tf.is_tensor(value)]


def local_rule(call: LayerCall, *, variables: Sequence[Any], memory_cap: int, unit: int = 1) -> Any:
    """Rule for any deterministic layer: a vector-Jacobian product of this layer alone, for each example.

    The layer runs once in the forward pass; afterwards, with the gradients of its outputs at hand, it runs again on
    the same inputs, once for each unit (an example, or several) to get norms, and on the batch for the weighted sum.

    Raises:
        NeedsWholeModelError: the layer would not compute the same again.
    """
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    known, drawn = 0 if graph is None else len(graph.get_operations()), draws()
    outputs = call.original(*call.args, **call.kwargs)
    _reject_unrepeatable(call, graph, known, drawn)
    # TensorFlow's own gradients add up over rows as the rows' gradients do; one that somebody wrote may do anything.
    custom = graph is not None and has_custom_gradient(graph, known)
    tapped = [value for value in tensors_of(outputs) if value.dtype.is_floating]
    for value in tapped:
        call.tap(value)
    arguments = (call.args, dict(call.kwargs))
    tensors = tensors_of(arguments)

    def run(values: Sequence[Any]) -> list[Any]:
        remaining = iter(values)
        args, kwargs = tf.nest.map_structure(lambda v: next(remaining) if tf.is_tensor(v) else v, arguments)
        return [value for value in tensors_of(call.layer(*args, **kwargs)) if value.dtype.is_floating]

    def parts(gradients: Sequence[Any]) -> dict[Any, Part]:
        return _local_parts(call.layer, run, tensors, list(gradients), variables, memory_cap, unit, custom)

    call.record(tapped, parts)
    return outputs


def _product(run: Callable[[Sequence[Any]], list[Any]], values: Any, gradients: Any, variables: Sequence[Any]) -> Any:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(variables)
        outputs = run(values)
    found = tape.gradient(outputs, variables, gradients, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [tf.convert_to_tensor(gradient) for gradient in found]


def _local_parts(
    layer: Any,
    run: Callable[[Sequence[Any]], list[Any]],
    tensors: list[Any],
    gradients: list[Any],
    variables: Sequence[Any],
    memory_cap: int,
    unit: int,
    custom: bool,
) -> dict[Any, Part]:
    size = chunk_size(variables, memory_cap)
    cache: dict[str, Any] = {}
    results: list[tuple[Any, list[Any]]] = []
    by_unit = in_units((tensors, gradients), unit)

    def one(row: Any) -> Any:
        return _product(run, row[0], row[1], variables)

    each = vectorized if _keeps_apart(layer, one, by_unit, variables) else mapped

    def norms() -> list[Any]:
        if "norms" not in cache:
            specs = [tf.TensorSpec([], variable.dtype) for variable in variables]
            cache["norms"] = in_chunks(
                lambda rows: [row_norms(g) for g in each(one, rows, variables)],
                by_unit,
                size=size,
                outputs=specs,
            )
        return list(cache["norms"])

    def weighted(weights: Any) -> list[Any]:
        # All variables of a group share their weights, and most often all groups do.
        for seen, known in results:
            if seen is weights:
                return known
        result = by_row(weights) if custom else at_once(weights)
        results.append((weights, result))
        return result

    def at_once(weights: Any) -> list[Any]:
        own = tf.repeat(weights, unit) if unit > 1 else weights
        safe = [kept(value, own) if value.dtype.is_floating else value for value in tensors]
        return list(_product(run, safe, [scaled(gradient, own) for gradient in gradients], variables))

    def by_row(weights: Any) -> list[Any]:
        def body(start: Any, sums: list[Any]) -> tuple[Any, list[Any]]:
            rows = tf.nest.map_structure(lambda value: value[start : start + size], by_unit)
            own = weights[start : start + size]
            found = each(one, rows, variables)
            return start + size, [s + tf.tensordot(own, kept(g, own), 1) for s, g in zip(sums, found, strict=True)]

        zeros = [tf.zeros(variable.shape, variable.dtype) for variable in variables]
        count = tf.shape(weights)[0]
        return list(tf.while_loop(lambda start, _: start < count, body, (tf.constant(0), zeros))[1])

    def part(index: int) -> LazyPart:
        return LazyPart(
            norm=lambda: norms()[index],
            weigh=lambda weights: weighted(weights)[index],
            full=lambda: each(one, by_unit, variables)[index],
            uses=(*tensors, *gradients),
        )

    return {variable.ref(): part(index) for index, variable in enumerate(variables)}


_APART: WeakKeyDictionary[Any, dict[str, bool]] = WeakKeyDictionary()


def _keeps_apart(layer: Any, function: Callable[[Any], Any], values: Any, variables: Sequence[Any]) -> bool:
    """Return whether the vectorised form of a function of one row of a layer is proven to keep rows apart.

    Vectorising loops takes seconds, so the answer is kept for the layer and the shapes of its values.
    """
    specs = [tf.TensorSpec([None, *value.shape[1:]], value.dtype) for value in tf.nest.flatten(values)]
    known = _APART.setdefault(layer, {})
    key = str(specs)
    if key not in known:
        known[key] = _proven(function, values, variables, specs)
    return known[key]


def _proven(function: Callable[[Any], Any], values: Any, variables: Sequence[Any], specs: Sequence[Any]) -> bool:
    made: list[Any] = []

    def run(*given: Any) -> Any:
        made[:] = vectorized(function, tf.nest.pack_sequence_as(values, list(given)), variables)
        return made

    graph = Traced(run, *specs).concrete.graph
    if any(not _is_fixed(outer) for outer, _ in graph.captures):
        return False
    return prove(graph, batch=graph.inputs[: len(specs)], targets=made).proven


def _is_fixed(outer: Any) -> bool:
    """Return whether what a function takes from outside is a variable or a constant: nothing of the batch."""
    return not hasattr(outer, "graph") or outer.dtype.name == "resource" or outer.op.type == "Const"
