"""Runs a model's forward pass with its layers' rules in place of the layers, and nothing else changed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import tensorflow as tf

# Importing the modules registers their rules.
from privacy_pipeline.dp.clipping import rules_conv, rules_linear, rules_recurrent  # noqa: F401
from privacy_pipeline.dp.clipping.fallback import NeedsWholeModelError
from privacy_pipeline.dp.clipping.isolate import isolated_rule
from privacy_pipeline.dp.clipping.local_rule import local_rule
from privacy_pipeline.dp.clipping.parts import Part
from privacy_pipeline.dp.clipping.registry import LayerCall, MakeParts, Rule, in_single, rule_for
from privacy_pipeline.dp.clipping.units import by_unit, combine
from privacy_pipeline.dp.rowwise.owners import is_atomic


class FallbackWarning(UserWarning):
    """A layer or a model has its per-example gradients computed one by one, vectorised: slower, and more memory."""


@dataclass(frozen=True)
class Targets:
    """How each layer that trains is handled.

    Attributes:
        rules: rule of each layer, keyed by `id(layer)`, with the layer.
        slow: names of the layers that fall back.
    """

    rules: Mapping[int, tuple[Any, Rule]]
    slow: tuple[str, ...]


def _own(layer: Any, trained: frozenset[Any]) -> list[Any]:
    """Return variables that train and belong to the layer itself, not to a layer inside it."""
    inner = {weight.ref() for sub in _inside(layer) for weight in sub.trainable_weights}
    return [weight for weight in layer.trainable_weights if weight.ref() in trained and weight.ref() not in inner]


def _inside(layer: Any) -> list[Any]:
    return list(layer._flatten_layers(recursive=False, include_self=False))


def find_targets(
    model: Any,
    variables: Sequence[Any],
    *,
    memory_cap: int,
    rows: int = 1,
    isolated: frozenset[int] = frozenset(),
) -> Targets:
    """Decide for each layer of a built model which rule runs it.

    Args:
        model: the model.
        variables: what is trained.
        memory_cap: bytes that per-example gradients of a layer without a rule may take at once.
        rows: examples of a unit.
        isolated: `id` of each layer that runs on one example at a time.

    Raises:
        NeedsWholeModelError: variables belong to the model itself, so that no layer's rule can cover them; or a layer
            without a rule computes in half precision.
    """
    trained = frozenset(variable.ref() for variable in variables)
    rules: dict[int, tuple[Any, Rule]] = {}
    slow: list[str] = []

    def visit(layer: Any) -> None:
        mine = [weight for weight in layer.trainable_weights if weight.ref() in trained]
        if id(layer) in rules:
            return
        if id(layer) in isolated:
            rules[id(layer)] = (layer, partial(isolated_rule, variables=mine, unit=rows))
            return
        if not mine:
            for sub in _inside(layer) if isolated else ():
                visit(sub)
            return
        rule = rule_for(layer) if len(mine) == len(layer.weights) else None
        if rule is None and (is_atomic(layer) or _own(layer, trained)):
            if layer.compute_dtype != layer.variable_dtype:
                # Its weighted sums would be rounded to half precision, and could exceed the bound.
                raise NeedsWholeModelError(f"layer '{layer.name}' has no rule and computes in {layer.compute_dtype}")
            rule = partial(local_rule, variables=mine, memory_cap=memory_cap, unit=rows)
            slow.append(f"{layer.name} ({type(layer).__name__})")
        if rule is not None:
            rules[id(layer)] = (layer, rule)
            return
        for sub in _inside(layer):
            visit(sub)

    if _own(model, trained):
        raise NeedsWholeModelError(f"variables of model '{model.name}' belong to no layer of it")
    for layer in _inside(model):
        visit(layer)
    return Targets(rules, tuple(slow))


@dataclass
class Recorder:
    """Collects tapped tensors and the functions that make parts from their gradients, call by call."""

    tape: Any
    any_size: bool = False  # whether the batch is one of any size: what has no axis of unknown size is not a batch
    taps: list[Any] = field(default_factory=list)
    calls: list[tuple[Any, int, int, MakeParts]] = field(default_factory=list)

    def call(self, layer: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> LayerCall:
        """Return the call of one layer, as its rule sees it."""

        def record(tapped: Sequence[Any], make_parts: MakeParts) -> None:
            if self.any_size and any(tensor.shape.is_fully_defined() for tensor in tapped):
                # Positions, prototypes: one gradient for the whole batch, and none for each example.
                raise NeedsWholeModelError(f"layer '{layer.name}' is called on something that is not a batch")
            self.calls.append((layer, len(self.taps), len(tapped), make_parts))
            self.taps.extend(tapped)

        return LayerCall(layer=layer, args=args, kwargs=kwargs, original=original, tap=self.tape.watch, record=record)

    def parts(self, total: Any, variables: Sequence[Any], *, rows: int = 1) -> list[Part | None]:
        """Return the part of each variable after one backward pass; None for a variable that was not used.

        Args:
            total: sum of the losses of all examples, scalar.
            variables: what is trained.
            rows: examples of a unit.
        """
        found_by_tape = self.tape.gradient(total, self.taps, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        # The gradient of a look-up by rows comes as slices.
        gradients = [in_single(tf.convert_to_tensor(gradient)) for gradient in found_by_tape]
        found: dict[Any, list[tuple[Any, Part]]] = {}
        for layer, start, count, make_parts in self.calls:
            for ref, part in make_parts(gradients[start : start + count]).items():
                found.setdefault(ref, []).append((layer, by_unit(part, rows)))
        return [_combined(found.get(variable.ref(), [])) for variable in variables]


def _combined(uses: Sequence[tuple[Any, Part]]) -> Part | None:
    if not uses:
        return None
    same = all(layer is uses[0][0] for layer, _ in uses)
    return combine([part for _, part in uses], same_layer=same)


@contextmanager
def intercepted(targets: Targets, recorder: Recorder) -> Iterator[None]:
    """While open, calls of the targets run their rules. Not for use by two threads on one model."""
    graph = tf.compat.v1.get_default_graph() if not tf.executing_eagerly() else None
    before: list[tuple[Any, Any]] = []

    def replaced(layer: Any, rule: Rule) -> Callable[..., Any]:
        original = layer.call if tf.executing_eagerly() else layer._autographed_call()

        def call(*args: Any, **kwargs: Any) -> Any:
            if graph is not None and tf.compat.v1.get_default_graph() is not graph:
                raise NeedsWholeModelError(f"layer '{layer.name}' is called inside a loop or branch of its model")
            return rule(recorder.call(layer, original, args, kwargs))

        unconverted: Callable[..., Any] = tf.autograph.experimental.do_not_convert(call)
        return unconverted

    try:
        for layer, rule in targets.rules.values():
            wrapper = replaced(layer, rule)
            before.append((layer, layer.__dict__.get("call")))
            # Past Keras, which would track and wrap it.
            layer.__dict__["call"] = wrapper
        yield
    finally:
        for layer, own in before:
            if own is None:
                del layer.__dict__["call"]
            else:
                layer.__dict__["call"] = own


def warn_of_fallback(what: str, why: str) -> None:
    """Warn once which layer, or model, falls back."""
    warnings.warn(
        f"{what}: {why}; its per-example gradients are computed by vectorised differentiation, which is slower "
        "(add a rule with privacy_pipeline.dp.clipping.registry.register_rule)",
        FallbackWarning,
        stacklevel=3,
    )
