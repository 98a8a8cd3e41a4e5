"""Rules for Dense, EinsumDense (and with it MultiHeadAttention), Embedding and the two normalisations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from privacy_pipeline.dp.clipping.parts import EmbeddingPart, MatrixPart, OuterPart, Part, VectorPart
from privacy_pipeline.dp.clipping.registry import LayerCall, in_single, register_rule

_Layers = tf.keras.layers


def linear_part(inputs: Any, outputs: Any, shape: Any) -> OuterPart | MatrixPart:
    """Return the part of a linear map's kernel.

    Args:
        inputs: what the map was applied to, [B, ..., P].
        outputs: gradients of what came out, [B, ..., Q].
        shape: the variable's shape; P*Q numbers, P slow and Q fast.
    """
    inputs = in_single(inputs)
    if inputs.shape.rank == 2:
        return OuterPart(inputs, outputs, shape)
    flat = [_positions(side) for side in (inputs, outputs)]
    return MatrixPart(flat[0], flat[1], shape)


def _positions(values: Any) -> Any:
    """Return [B, ..., P] as [B, T, P], with T static where it can be."""
    if values.shape.rank == 3:
        return values
    middle = values.shape[1:-1].num_elements()
    count = tf.reduce_prod(tf.shape(values)[1:-1]) if middle is None else middle
    return tf.reshape(values, tf.stack([tf.shape(values)[0], count, values.shape[-1]]))


def bias_part(outputs: Any, shape: Any) -> VectorPart:
    """Return the part of a variable that was added to the outputs with broadcasting.

    Args:
        outputs: gradients of what it was added to, [B, ...].
        shape: the variable's static shape.
    """
    rank = outputs.shape.rank
    summed = list(range(1, rank - len(shape)))
    gradients = tf.reduce_sum(outputs, axis=summed) if summed else outputs
    single = [axis + 1 for axis, size in enumerate(shape) if size == 1 and gradients.shape[axis + 1] != 1]
    if single:
        gradients = tf.reduce_sum(gradients, axis=single, keepdims=True)
    return VectorPart(gradients)


def activated(layer: Any, outputs: Any) -> Any:
    """Return the layer's activation of its pre-activations."""
    return outputs if layer.activation is None else layer.activation(outputs)


def linear(values: Any) -> Any:
    """Return the identity, in place of a layer's activation."""
    return values


@register_rule(_Layers.Dense)
def dense(call: LayerCall) -> Any:
    """Dense, on vectors and on sequences of any rank: the kernel's gradient is inputs x outputs."""
    layer, inputs = call.layer, tf.cast(call.inputs(), call.layer.compute_dtype)
    outputs = call.original_with(activation=linear)
    call.tap(outputs)

    def parts(gradients: Sequence[Any]) -> dict[Any, Part]:
        made: dict[Any, Part] = {layer.kernel.ref(): linear_part(inputs, gradients[0], layer.kernel.shape)}
        if layer.use_bias:
            made[layer.bias.ref()] = bias_part(gradients[0], layer.bias.shape)
        return made

    call.record([outputs], parts)
    return activated(layer, outputs)


def _spread(equation: str, rank: int, out_rank: int) -> tuple[str, str, str]:
    """Return the three terms of an einsum "x,k->y" with the dots of x and y replaced by unused letters."""
    left, right = equation.replace(" ", "").split("->")
    first, kernel = left.split(",")
    free = [letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if letter not in equation]
    dots = "".join(free[: rank - len(first.replace("...", ""))])
    return first.replace("...", dots), kernel, right.replace("...", dots)


def _einsum_supported(layer: Any) -> bool:
    """Return whether the batch is the first axis of input and output, and no letter is summed within one operand."""
    left, right = layer.equation.replace(" ", "").split("->")
    first, kernel = left.split(",")
    known = all(letter in kernel + right or letter == "." for letter in first)
    return known and first[0] == right[0] and first[0] not in kernel and "..." not in kernel


@register_rule(_Layers.EinsumDense, supports=_einsum_supported)
def einsum_dense(call: LayerCall) -> Any:
    """EinsumDense, the linear map inside MultiHeadAttention: letters sort into positions, inputs, outputs, groups."""
    layer, inputs = call.layer, call.inputs()
    outputs = call.original_with(activation=linear)
    call.tap(outputs)

    def parts(gradients: Sequence[Any]) -> dict[Any, Part]:
        terms = _spread(layer.equation, inputs.shape.rank, outputs.shape.rank)
        made: dict[Any, Part] = {layer.kernel.ref(): _einsum_part(terms, inputs, gradients[0], layer.kernel.shape)}
        if layer.bias is not None:
            made[layer.bias.ref()] = bias_part(gradients[0], layer.bias.shape)
        return made

    call.record([outputs], parts)
    return activated(layer, outputs)


def _einsum_part(terms: tuple[str, str, str], inputs: Any, outputs: Any, shape: Any) -> Part:
    first, kernel, right = terms
    inputs = in_single(inputs)
    batch = first[0]
    contracted = [letter for letter in kernel if letter in first and letter not in right]
    produced = [letter for letter in kernel if letter in right and letter not in first]
    if contracted + produced != list(kernel):
        # Letters in all three terms, or a kernel in another order: form the gradients.
        return VectorPart(tf.einsum(f"{first},{right}->{batch}{kernel}", inputs, outputs))
    positions = [letter for letter in first[1:] if letter in right]
    sides = []
    for values, term, own in ((inputs, first, contracted), (outputs, right, produced)):
        ordered = tf.einsum(f"{term}->{batch}{''.join(positions + own)}", values)
        width = tf.TensorShape(ordered.shape[1 + len(positions) :]).num_elements()
        head = tf.shape(ordered)[: 1 + len(positions)]
        flat = tf.reshape(ordered, tf.concat([head, [width]], 0))
        flat.set_shape([*ordered.shape[: 1 + len(positions)], width])
        sides.append(flat)
    return linear_part(sides[0], sides[1], shape)


def _embedding_supported(layer: Any) -> bool:
    return not getattr(layer, "sparse", False)


@register_rule(_Layers.Embedding, supports=_embedding_supported)
def embedding(call: LayerCall) -> Any:
    """Embedding: gradients of looked-up rows, added up where an example looks a row up twice.

    An id outside [0, input_dim) gives zeros and has no gradient, on every device: TensorFlow's own lookup gives zeros
    on a GPU, and on a CPU ends the step with an error that shows the id. No id can count as another example's.
    """
    layer, given = call.layer, tf.cast(call.inputs(), tf.int64)
    known = tf.logical_and(given >= 0, given < layer.input_dim)
    ids = tf.where(known, given, tf.zeros_like(given))
    looked = call.original(ids, **{name: value for name, value in call.kwargs.items() if name != "inputs"})
    call.tap(looked)
    outputs = tf.where(known[..., None], looked, tf.zeros_like(looked))

    def parts(gradients: Sequence[Any]) -> dict[Any, Part]:
        positions = 1 if ids.shape.rank == 1 else ids.shape[1:].num_elements()
        count = tf.reduce_prod(tf.shape(ids)[1:]) if positions is None else positions
        flat = tf.reshape(ids, tf.stack([tf.shape(ids)[0], count]))
        each = tf.reshape(gradients[0], tf.stack([tf.shape(ids)[0], count, layer.output_dim]))
        return {layer.embeddings.ref(): EmbeddingPart(flat, each, layer.input_dim)}

    call.record([looked], parts)
    return outputs


def _scaled_and_shifted(call: LayerCall, normal: Any, gamma: Any, beta: Any, axes: Sequence[int]) -> Any:
    """Return normal * gamma + beta along `axes`, recorded; in float32 where the layer computes in half precision."""
    rank, given = normal.shape.rank, normal.dtype
    normal = in_single(normal)
    broadcast = [normal.shape[axis] if axis in axes else 1 for axis in range(rank)]
    rest = [axis for axis in range(1, rank) if axis not in axes]
    outputs = normal
    if gamma is not None:
        outputs = outputs * tf.cast(tf.reshape(gamma, broadcast), normal.dtype)
    if beta is not None:
        outputs = outputs + tf.cast(tf.reshape(beta, broadcast), normal.dtype)
    call.tap(outputs)

    def parts(gradients: Sequence[Any]) -> dict[Any, Part]:
        made: dict[Any, Part] = {}
        for variable, values in ((gamma, gradients[0] * normal), (beta, gradients[0])):
            if variable is not None:
                summed = tf.reduce_sum(values, axis=rest) if rest else values
                made[variable.ref()] = VectorPart(tf.reshape(summed, [-1, *variable.shape]))
        return made

    call.record([outputs], parts)
    return tf.cast(outputs, given)


def _axes(layer: Any, rank: int) -> list[int]:
    given = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return [axis % rank for axis in given]


@register_rule(_Layers.LayerNormalization, supports=lambda layer: 0 not in _axes(layer, 99))
def layer_normalization(call: LayerCall) -> Any:
    """LayerNormalization: gradients of scale and shift are sums over the axes that they are spread along."""
    layer = call.layer
    gamma, beta = layer.gamma, layer.beta
    normal = call.original_with(gamma=None, beta=None)
    return _scaled_and_shifted(call, normal, gamma, beta, sorted(_axes(layer, normal.shape.rank)))


@register_rule(_Layers.GroupNormalization)
def group_normalization(call: LayerCall) -> Any:
    """GroupNormalization: as LayerNormalization, with statistics of groups of channels."""
    layer = call.layer
    gamma, beta = (layer.gamma if layer.scale else None), (layer.beta if layer.center else None)
    normal = call.original_with(scale=False, center=False)
    normal.set_shape(call.inputs().shape)
    return _scaled_and_shifted(call, normal, gamma, beta, _axes(layer, normal.shape.rank))
