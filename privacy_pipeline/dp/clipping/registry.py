"""Rules by layer type: how to run a layer so that per-example gradients of its variables can be computed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from privacy_pipeline.dp.clipping.parts import Part
from privacy_pipeline.errors import BadInputError

# From the gradients of the tapped tensors, in order: the part of each variable, keyed by `variable.ref()`.
MakeParts = Callable[[Sequence[Any]], Mapping[Any, Part]]


@dataclass(frozen=True, kw_only=True)
class LayerCall:
    """One call of a layer during the forward pass.

    Attributes:
        layer: the layer.
        args: positional arguments of `layer.call`.
        kwargs: keyword arguments of `layer.call`.
        original: the layer's own `call`.
        tap: makes the backward pass stop for a tensor's gradient; call it before the tensor is used further.
        record: takes the tapped tensors and the function that turns their gradients into parts.
    """

    layer: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    original: Callable[..., Any]
    tap: Callable[[Any], None]
    record: Callable[[Sequence[Any], MakeParts], None]

    def inputs(self) -> Any:
        """Return the layer's first argument."""
        return self.args[0] if self.args else self.kwargs["inputs"]

    def original_with(self, **attributes: Any) -> Any:
        """Run the layer's own `call` while some of its attributes have other values."""
        before = {name: getattr(self.layer, name) for name in attributes}
        # Keras tracks what is set on a layer; these values come and go untracked.
        for name, value in attributes.items():
            object.__setattr__(self.layer, name, value)
        try:
            return self.original(*self.args, **self.kwargs)
        finally:
            for name, value in before.items():
                object.__setattr__(self.layer, name, value)


def in_single(values: Any) -> Any:
    """Return half-precision values as float32; others unchanged.

    Inputs that a rule captures and gradients that it is given are cast before products of them are formed, so that
    norms and weighted sums are of the same gradients, in float32, however roughly these came about.
    """
    return tf.cast(values, tf.float32) if values.dtype in (tf.float16, tf.bfloat16) else values


Rule = Callable[[LayerCall], Any]
Supports = Callable[[Any], bool]


@dataclass(frozen=True)
class _Entry:
    rule: Rule
    supports: Supports


_RULES: dict[type, _Entry] = {}


def register_rule(layer_type: type, *, supports: Supports | None = None) -> Callable[[Rule], Rule]:
    """Register a function as the rule of a layer type, and of that type only: a subclass may compute otherwise.

    The rule runs the layer, taps the tensors whose gradients it needs, records how parts follow from those, and
    returns the layer's output.

    Args:
        layer_type: the layer class.
        supports: whether the rule covers a given layer of that class; without it, all of them.

    Raises:
        BadInputError: the class has a rule already.
    """

    def register(rule: Rule) -> Rule:
        if layer_type in _RULES:
            raise BadInputError(
                f"{layer_type.__name__} has a clipping rule already: {_RULES[layer_type].rule.__qualname__}",
                fix="give your layer a class of its own",
            )
        _RULES[layer_type] = _Entry(rule, supports or (lambda layer: True))
        return rule

    return register


def rule_for(layer: Any) -> Rule | None:
    """Return the rule of a layer, or None where it has none."""
    entry = _RULES.get(type(layer))
    return entry.rule if entry is not None and entry.supports(layer) else None
