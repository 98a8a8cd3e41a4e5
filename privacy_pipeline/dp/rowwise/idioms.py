"""Idioms whose results are known where no rule would give them: bounds that cut a number, and keys made of a seed."""

from __future__ import annotations

from dataclasses import replace

from privacy_pipeline.dp.rowwise.registry import OpCall
from privacy_pipeline.dp.rowwise.rules.rules_elementwise import long_integers
from privacy_pipeline.dp.rowwise.values import UNNAMED, Value, of_content


def compares_with_itself(call: OpCall) -> bool:
    """Return whether an op asks if a truth value equals itself, as `tf.recompute_grad` does to order computations."""
    from tensorflow import dtypes

    if call.type != "Equal" or call.node.inputs[0] != call.node.inputs[1]:
        return False
    return call.inputs[0].shape == () and bool(dtypes.as_dtype(call.node.attr["T"].type).is_bool)


def _bound(call: OpCall) -> tuple[int, Value] | None:
    """Return, of a whole number and a bound that is known, the bound and the number."""
    for place in (0, 1):
        numbers, other = call.constant(place), call.inputs[1 - place]
        known = numbers is not None and len(numbers) == 1 and type(numbers[0]) is int
        if known and call.whole_numbers() and call.inputs[place].shape == other.shape == ():
            return int(numbers[0]), other  # type: ignore[index]
    return None


def at_least(call: OpCall, found: list[Value]) -> list[Value]:
    """Return the values, with the note that each is raised to a bound."""
    bound = _bound(call)
    return found if bound is None else [replace(value, least=bound[0]) for value in found]


def cut_of(call: OpCall) -> Value | None:
    """Return the bound for a number that is raised to it and cut to it, whatever the data are."""
    bound = _bound(call)
    if bound is None or bound[1].least is None or bound[1].least < bound[0]:
        return None
    return of_content(call.inputs[0 if call.inputs[1] is bound[1] else 1].content)


_FULL = ("StatelessRandomUniformFullIntV2", "StatelessRandomUniformFullInt")


def key_of(call: OpCall) -> str:
    """Return which key an op makes of a secret seed; empty where it makes none.

    It derives one by whole numbers of the full range, hands one on, or joins one with known numbers, as folding does.
    Arithmetic may leave nothing of the secret, and a slice may leave the number alone. Keys of one name are equal.
    """
    if any(value.key == UNNAMED for value in call.inputs):
        return ""
    if call.type in ("Identity", "StatelessRandomGetKeyCounter"):
        return call.inputs[0].key
    if call.type == "Cast":
        keeps = call.whole_numbers("SrcT") and long_integers(call, "DstT")
        return call.inputs[0].key if keeps else ""
    if call.type in _FULL:
        shape = call.constant(0)
        return f"drawn {shape} of ({call.inputs[1].key})" if call.inputs[1].key and shape is not None else ""
    if call.type == "Pack" and any(value.key for value in call.inputs):
        numbers = [None if value.key else call.constant(place) for place, value in enumerate(call.inputs)]
        parts = [value.key or number for value, number in zip(call.inputs, numbers, strict=True)]
        return "" if None in parts else f"joined {parts}"
    return ""
