"""Runs a layer, or a loss, on one example at a time: what no rule of the row-wise proof covers stays apart this way.

Forward and backward pass are loops over batches of one (`tf.map_fn`), so that an example meets no other whatever the
function does. It must keep no state and draw nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from privacy_pipeline.dp.clipping.fallback import NeedsWholeModelError, is_random
from privacy_pipeline.dp.clipping.local_rule import tensors_of
from privacy_pipeline.dp.clipping.parts import LazyPart, Part
from privacy_pipeline.dp.clipping.registry import LayerCall
from privacy_pipeline.dp.clipping.row_norms import kept, row_norms
from privacy_pipeline.dp.graphs.tracing import Traced, as_it_is
from privacy_pipeline.dp.noise.masks import draws
from privacy_pipeline.dp.rowwise.proof import mark_isolated

# From tensors of a batch, or of one row, to the tensors of the result.
_Function = Callable[[Sequence[Any]], list[Any]]


def _of_rows(tensor: Any) -> bool:
    return tensor.shape.rank is not None and tensor.shape.rank > 0 and tensor.shape[0] is None


def _with_rows(tensors: Sequence[Any], rows: Sequence[Any]) -> list[Any]:
    """Return all arguments of a call on one row: `rows` [...] as batches of one, the public ones as they are."""
    remaining = iter(rows)
    return [_of_any_size(next(remaining)[None]) if _of_rows(tensor) else tensor for tensor in tensors]


def _of_any_size(value: Any) -> Any:
    """Return a batch of one whose size Python code does not see: it is to do what it does with any batch.

    `clipping.fallback` hides the size by a slice, since TensorFlow vectorises slices and not this op.
    """
    return tf.raw_ops.PlaceholderWithDefault(input=value, shape=tf.TensorShape([None, *value.shape[1:]]))


def _only_rows(results: Sequence[Any]) -> list[Any]:
    """Return the one row of each result of a batch of one; an op that fails where there are more."""
    return [tf.squeeze(result, 0) for result in results]


def _each(function: _Function, values: Sequence[Any], specs: Sequence[Any]) -> list[Any]:
    """Apply `function` to the rows of some tensors one by one; its results are of one row, without a batch."""
    made = tf.map_fn(as_it_is(lambda row: list(function(row))), list(values), fn_output_signature=list(specs))
    mark_isolated(values, made)
    return list(made)


def _row_specs(function: _Function, tensors: Sequence[Any], name: str) -> list[Any]:
    """Return specs of one row of each result, from a throw-away trace on a batch."""
    wanted = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
    drawn = draws()
    traced = Traced(lambda *values: function(values), *wanted).concrete
    outputs = tf.nest.flatten(traced.structured_outputs)
    if is_random(traced.graph) or draws() != drawn:
        raise NeedsWholeModelError(f"{name} has no rule, and is random or keeps state")
    if not all(_of_rows(output) for output in outputs):
        raise NeedsWholeModelError(f"{name} has no rule, and gives a result whose first axis is not the batch")
    return [tf.TensorSpec(output.shape[1:], output.dtype) for output in outputs]


def isolated_call(function: _Function, tensors: Sequence[Any], *, name: str) -> list[Any]:
    """Apply `function` to a batch row by row, and differentiate it row by row.

    Args:
        function: from tensors, [batch, ...] or public, to tensors [batch, ...].
        tensors: its arguments. Those of unknown first size are rows, the others public.
        name: what the function is, for errors.

    Returns:
        The results, [batch, ...].

    Raises:
        NeedsWholeModelError: the function draws, keeps state, or gives something other than rows.
    """
    if not any(_of_rows(tensor) for tensor in tensors):
        raise NeedsWholeModelError(f"{name} has no rule, and takes nothing with a batch")
    specs = _row_specs(function, tensors, name)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(*given: Any) -> Any:
        values = [tensor for tensor in given if _of_rows(tensor)]
        made = _each(lambda row: _only_rows(function(_with_rows(given, row))), values, specs)

        def gradient(*upstream: Any, variables: Any = None) -> Any:
            found = iter(_gradients(function, given, upstream))
            result = [next(found) if _of_rows(one) and one.dtype.is_floating else None for one in given]
            return (result, [None] * len(variables)) if variables is not None else result

        return made, gradient

    made = run(*tensors)
    return [tf.ensure_shape(one, [None, *spec.shape]) for one, spec in zip(tf.nest.flatten(made), specs, strict=True)]


def _gradients(function: _Function, given: Sequence[Any], upstream: Sequence[Any]) -> list[Any]:
    """Return gradients of the floating rows among the arguments, [batch, ...] each."""
    values = [tensor for tensor in given if _of_rows(tensor)]
    floating = [tensor for tensor in values if tensor.dtype.is_floating]
    weights = [one for one in upstream if one is not None]
    if not floating:
        return []

    def one(row: Sequence[Any]) -> list[Any]:
        own, incoming = row[: len(values)], iter(row[len(values) :])
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            watched = [value for value in own if value.dtype.is_floating]
            tape.watch(watched)
            outputs = _only_rows(function(_with_rows(given, own)))
        targets = [out for out, weight in zip(outputs, upstream, strict=True) if weight is not None]
        zero = tf.UnconnectedGradients.ZERO
        found = tape.gradient(targets, watched, list(incoming), unconnected_gradients=zero)
        return [tf.convert_to_tensor(value) for value in found]

    specs = [tf.TensorSpec(value.shape[1:], value.dtype) for value in floating]
    return _each(one, [*values, *weights], specs)


def isolated_rule(call: LayerCall, *, variables: Sequence[Any], unit: int = 1) -> Any:
    """Rule for a layer that is not proven to keep rows apart: it runs on batches of one.

    Gradients of its variables come from the same loop, twice: once for the norms, once for the weighted sum.

    Raises:
        NeedsWholeModelError: see `isolated_call`; or units own several examples, or the layer takes no rows.
    """
    name = f"layer '{call.layer.name}'"
    if unit > 1:
        raise NeedsWholeModelError(f"{name} has no rule")
    arguments = (call.args, dict(call.kwargs))
    tensors = tensors_of(arguments)
    structure: list[Any] = []

    def function(values: Sequence[Any]) -> list[Any]:
        remaining = iter(values)
        args, kwargs = tf.nest.map_structure(lambda v: next(remaining) if tf.is_tensor(v) else v, arguments)
        outputs = call.original(*args, **kwargs)
        structure[:] = [outputs]
        return list(tf.nest.flatten(outputs))

    made = isolated_call(function, tensors, name=name)
    outputs = tf.nest.pack_sequence_as(structure[0], made)
    if variables:
        tapped = [value for value in made if value.dtype.is_floating]
        for value in tapped:
            call.tap(value)
        call.record(tapped, lambda gradients: _parts(function, tensors, list(gradients), variables))
    return outputs


def _parts(function: _Function, tensors: Sequence[Any], gradients: list[Any], variables: Sequence[Any]) -> Any:
    values = [tensor for tensor in tensors if _of_rows(tensor)]

    def one(row: Sequence[Any]) -> list[Any]:
        own, incoming = row[: len(values)], row[len(values) :]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            outputs = [out for out in function(_with_rows(tensors, own)) if out.dtype.is_floating]
        weights = [weight[None] for weight in incoming]
        zero = tf.UnconnectedGradients.ZERO
        found = tape.gradient(outputs, variables, weights, unconnected_gradients=zero)
        return [tf.convert_to_tensor(value) for value in found]

    batch = [*values, *gradients]
    cache: dict[str, list[Any]] = {}

    def norms() -> list[Any]:
        if "norms" not in cache:
            specs = [tf.TensorSpec([], variable.dtype) for variable in variables]
            cache["norms"] = _each(lambda row: [row_norms(g[None])[0] for g in one(row)], batch, specs)
        return cache["norms"]

    def weighted(weights: Any, place: int) -> Any:
        def body(row: Any, total: Any) -> tuple[Any, Any]:
            gradient = one([value[row] for value in batch])[place][None]
            own = weights[row][None]
            return row + 1, total + tf.tensordot(own, kept(gradient, own), 1)

        start = (tf.constant(0), tf.zeros(variables[place].shape, variables[place].dtype))
        total = tf.while_loop(lambda row, _: row < tf.shape(weights)[0], body, start, parallel_iterations=1)[1]
        mark_isolated([*batch, weights], [total], summed=True)
        return total

    def full(place: int) -> Any:
        specs = [tf.TensorSpec(variable.shape, variable.dtype) for variable in variables]
        return _each(one, batch, specs)[place]

    def part(place: int) -> Part:
        return LazyPart(
            norm=lambda: norms()[place],
            weigh=lambda weights: weighted(weights, place),
            full=lambda: full(place),
            uses=tuple(batch),
        )

    return {variable.ref(): part(place) for place, variable in enumerate(variables)}
