"""Rules for LSTM and GRU: the recurrence runs once, and its gates' gradients make it a linear map over time steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from privacy_pipeline.dp.clipping.parts import Part, VectorPart
from privacy_pipeline.dp.clipping.registry import LayerCall, in_single, register_rule
from privacy_pipeline.dp.clipping.rules_linear import bias_part, linear_part

_Layers = tf.keras.layers
_Step = Callable[[Any, Sequence[Any]], tuple[Any, list[Any]]]


def _supported(layer: Any) -> bool:
    """Dropout inside the recurrence, state kept between batches and time-major inputs have no rule."""
    random = getattr(layer, "dropout", 0) or getattr(layer, "recurrent_dropout", 0)
    return not random and not layer.stateful and not layer.time_major


def _inputs(call: LayerCall) -> tuple[Any, Any, Any]:
    """Return inputs [B, T, P] and mask [B, T] in the order in which the layer reads them, and initial states."""
    layer, kwargs = call.layer, dict(call.kwargs)
    inputs, states, _ = layer._process_inputs(call.inputs(), kwargs.get("initial_state"), None)
    mask = kwargs.get("mask", call.args[1] if len(call.args) > 1 else None)
    mask = mask[0] if isinstance(mask, (list, tuple)) else mask
    if layer.go_backwards:
        inputs = tf.reverse(inputs, [1])
        mask = None if mask is None else tf.reverse(mask, [1])
    return inputs, mask, list(states)


def _unrolled(layer: Any, step: _Step, inputs: Any, mask: Any, states: Any) -> tuple[Any, Any]:
    """Run `step`, whose output is [state, anything else], over time.

    Returns:
        The layer's output, and all that the steps gave out beside the state, [B, T, ...].
    """
    units = layer.units
    first = tf.nest.flatten(inputs)[0]
    last, everything, final = tf.keras.backend.rnn(
        step,
        inputs,
        states,
        mask=mask,
        input_length=first.shape[1],
        zero_output_for_mask=False,
        return_all_outputs=True,
    )
    hidden = everything[..., :units]
    if layer.return_sequences:
        outputs = hidden
        if mask is not None and layer.zero_output_for_mask:
            outputs = tf.where(mask[..., None], outputs, tf.zeros_like(outputs))
    else:
        outputs = last[..., :units]
    outputs = [outputs, *final] if layer.return_state else outputs
    return outputs, everything[..., units:]


@register_rule(_Layers.LSTM, supports=_supported)
def lstm(call: LayerCall) -> Any:
    """LSTM: inputs are projected for all steps at once; that projection's gradients are those of the gates."""
    layer, cell = call.layer, call.layer.cell
    inputs, mask, states = _inputs(call)
    projected = tf.tensordot(inputs, cell.kernel, 1)
    if cell.use_bias:
        projected = tf.nn.bias_add(projected, cell.bias)
    call.tap(projected)

    def step(gates: Any, state: Sequence[Any]) -> tuple[Any, list[Any]]:
        hidden, carry = state
        i, f, c, o = tf.split(gates + tf.matmul(hidden, cell.recurrent_kernel), 4, axis=-1)
        carry = cell.recurrent_activation(f) * carry + cell.recurrent_activation(i) * cell.activation(c)
        new = cell.recurrent_activation(o) * cell.activation(carry)
        return tf.concat([new, hidden], -1), [new, carry]

    outputs, before = _unrolled(layer, step, projected, mask, states)

    def parts(gradients: Sequence[Any]) -> dict[Any, Part]:
        made: dict[Any, Part] = {
            cell.kernel.ref(): linear_part(inputs, gradients[0], cell.kernel.shape),
            cell.recurrent_kernel.ref(): linear_part(before, gradients[0], cell.recurrent_kernel.shape),
        }
        if cell.use_bias:
            made[cell.bias.ref()] = bias_part(gradients[0], cell.bias.shape)
        return made

    call.record([projected], parts)
    return outputs


@register_rule(_Layers.GRU, supports=_supported)
def gru(call: LayerCall) -> Any:
    """GRU in both forms: with the reset gate after the recurrent product (the default) or before it."""
    layer, cell = call.layer, call.layer.cell
    inputs, mask, states = _inputs(call)
    bias = cell.bias if cell.use_bias else None
    projected = tf.tensordot(inputs, cell.kernel, 1)
    if bias is not None:
        projected = tf.nn.bias_add(projected, bias[0] if cell.reset_after else bias)
    # Zeros that are added to the recurrent product: their gradient is that of the product.
    recurrent = tf.zeros_like(projected)
    call.tap(projected)
    call.tap(recurrent)
    step = _gru_after(cell) if cell.reset_after else _gru_before(cell)
    outputs, before = _unrolled(layer, step, (projected, recurrent), mask, states)

    def parts(gradients: Sequence[Any]) -> dict[Any, Part]:
        own, hidden = gradients
        made: dict[Any, Part] = {cell.kernel.ref(): linear_part(inputs, own, cell.kernel.shape)}
        if cell.reset_after:
            made[cell.recurrent_kernel.ref()] = linear_part(before, hidden, cell.recurrent_kernel.shape)
        else:
            made[cell.recurrent_kernel.ref()] = _reset_before_part(before, own, cell.units)
        if bias is not None:
            total = tf.reduce_sum(own, axis=1)
            both = tf.stack([total, tf.reduce_sum(hidden, axis=1)], axis=1) if cell.reset_after else total
            made[bias.ref()] = VectorPart(both)
        return made

    call.record([projected, recurrent], parts)
    return outputs


def _gru_after(cell: Any) -> _Step:
    def step(sides: Any, state: Sequence[Any]) -> tuple[Any, list[Any]]:
        (own, zero), hidden = sides, state[0]
        product = tf.matmul(hidden, cell.recurrent_kernel) + zero
        if cell.use_bias:
            product = tf.nn.bias_add(product, cell.bias[1])
        own_z, own_r, own_h = tf.split(own, 3, axis=-1)
        rec_z, rec_r, rec_h = tf.split(product, 3, axis=-1)
        update, reset = cell.recurrent_activation(own_z + rec_z), cell.recurrent_activation(own_r + rec_r)
        new = update * hidden + (1 - update) * cell.activation(own_h + reset * rec_h)
        return tf.concat([new, hidden], -1), [new]

    return step


def _gru_before(cell: Any) -> _Step:
    def step(sides: Any, state: Sequence[Any]) -> tuple[Any, list[Any]]:
        (own, _), hidden = sides, state[0]
        own_z, own_r, own_h = tf.split(own, 3, axis=-1)
        both = tf.matmul(hidden, cell.recurrent_kernel[:, : 2 * cell.units])
        rec_z, rec_r = tf.split(both, 2, axis=-1)
        update, reset = cell.recurrent_activation(own_z + rec_z), cell.recurrent_activation(own_r + rec_r)
        left = reset * hidden
        new = update * hidden + (1 - update) * cell.activation(
            own_h + tf.matmul(left, cell.recurrent_kernel[:, 2 * cell.units :])
        )
        return tf.concat([new, hidden, left], -1), [new]

    return step


def _reset_before_part(before: Any, own: Any, units: int) -> VectorPart:
    """Recurrent kernel where the reset gate acts first: two inputs, one for two gates and one for the candidate."""
    before = in_single(before)
    hidden, left = before[..., :units], before[..., units:]
    gates = tf.matmul(hidden, own[..., : 2 * units], transpose_a=True)
    candidate = tf.matmul(left, own[..., 2 * units :], transpose_a=True)
    return VectorPart(tf.concat([gates, candidate], axis=-1))
