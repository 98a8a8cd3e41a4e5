"""The loss of each example by all outputs of a model, with the weights of outputs and examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from privacy_pipeline.config.models.ranges import is_number
from privacy_pipeline.dp.checks.other_libraries import require_loss
from privacy_pipeline.dp.graphs.tracing import told_as_users_code
from privacy_pipeline.dp.rowwise.owners import LOSS_SCOPE
from privacy_pipeline.dp.training.from_keras.losses import of_output
from privacy_pipeline.errors import BadInputError

Loss = Callable[..., Any]


def per_example_loss(loss: Any, *, loss_weights: Any = None, names: Sequence[str] = ()) -> Loss:
    """Return a function of (labels, outputs, weights=None) that gives the loss of each example, float [B].

    Args:
        loss: name, function or Keras loss; for a model of several outputs, a list or dict of those, None for an output
            that does not count, or one for all outputs.
        loss_weights: weights of the outputs, in the structure of `loss`, or of the outputs; all 1 without it.
        names: of the outputs, in their order, where there are several.

    Raises:
        BadInputError: no loss, or losses, weights and outputs of different structure.
    """
    if loss is None:
        raise BadInputError("a loss is needed", fix='make_private(model, plan, loss="...") or compile the model')
    require_loss(loss)
    nested = isinstance(loss, (Mapping, list, tuple))
    if not nested and not names:
        function = of_output(loss)
        (weight,) = _weights(loss_weights, [0] if isinstance(loss_weights, (list, tuple)) else [None]).values()
        return lambda labels, outputs, weights=None: _single(function, weight, labels, outputs, weights)
    losses = _by_name(loss if nested else dict.fromkeys(names, loss), names, "loss")
    factors = _weights(_by_name(loss_weights, names, "loss_weights"), list(losses))
    functions = {key: of_output(one) for key, one in losses.items() if one is not None}
    if not functions:
        raise BadInputError("no output has a loss", fix="give one output a loss")

    def several(labels: Any, outputs: Any, weights: Any = None) -> Any:
        if not isinstance(outputs, (Mapping, list, tuple)):
            outputs, labels = [outputs], [labels] if not isinstance(labels, (Mapping, list, tuple)) else labels
        parts = []
        for key, function in functions.items():
            own = None if labels is None else _part(labels, key, names, "labels")
            weight = _part(weights, key, names, "sample_weight") if isinstance(weights, (Mapping, tuple)) else weights
            parts.append(factors[key] * function(own, _part(outputs, key, names, "outputs of the model"), weight))
        return tf.add_n(parts)

    return several


def output_names(model: Any) -> list[str]:
    """Return the names of a model's outputs, in their order, where there are several and Keras has names for them."""
    made = getattr(model, "output", None) if getattr(model, "built", False) and model.outputs is not None else None
    if isinstance(made, Mapping):
        return list(made)
    return list(model.output_names) if isinstance(made, (list, tuple)) and len(made) > 1 else []


def _single(function: Any, factor: float, labels: Any, outputs: Any, weights: Any) -> Any:
    """Return one loss: of the output, or of each output of a model whose outputs have no names."""
    if isinstance(outputs, (Mapping, list, tuple)):
        keys = list(outputs) if isinstance(outputs, Mapping) else range(len(outputs))
        labelled = {key: None if labels is None else _part(labels, key, (), "labels") for key in keys}
        return factor * tf.add_n([function(labelled[key], outputs[key], weights) for key in keys])
    found = function(labels, outputs, weights)
    return found if factor == 1.0 else factor * found


def _by_name(nest: Any, names: Sequence[str], what: str) -> Any:
    """Return a dict by the names of outputs; a list by its places, where outputs have no names."""
    if not isinstance(nest, (list, tuple)):
        unknown = sorted(set(nest) - set(names)) if isinstance(nest, Mapping) and names else []
        if unknown:
            raise BadInputError(
                f"{what} names '{unknown[0]}', and the outputs of the model are {', '.join(names)}",
                fix="name the outputs as the model does",
            )
        return nest
    if names and len(names) != len(nest):
        raise BadInputError(
            f"{what} has {len(nest)} entries, and the model {len(names)} outputs: {', '.join(names)}",
            fix="give one for each output, in their order",
        )
    return dict(zip(names or range(len(nest)), nest, strict=True)) if what == "loss" or names else nest


def _part(nest: Any, key: Any, names: Sequence[str], what: str) -> Any:
    """Return what a nest holds for an output.

    Raises:
        BadInputError: it is not a nest, or has nothing for the output.
    """
    if isinstance(nest, Mapping) and key in nest:
        return nest[key]
    place = names.index(key) if key in names else key
    if isinstance(nest, (list, tuple)) and isinstance(place, int) and place < len(nest):
        return nest[place]
    raise BadInputError(
        f"there are no {what} for output {key!r}",
        fix="give labels and losses in one structure: a list in the order of the outputs, or a dict by their names",
    )


def _weights(loss_weights: Any, keys: Sequence[Any]) -> dict[Any, float]:
    """Return the weight of each output's loss; 1 where a dict does not name it, as in Keras.

    Raises:
        BadInputError: the weights do not fit the losses.
    """
    if isinstance(loss_weights, Mapping) and set(loss_weights) <= set(keys):
        given = dict(loss_weights)
    elif isinstance(loss_weights, (list, tuple)) and list(range(len(loss_weights))) == list(keys):
        given = dict(enumerate(loss_weights))
    elif loss_weights is None or (list(keys) == [None] and isinstance(loss_weights, (int, float))):
        given = {} if loss_weights is None else {None: loss_weights}
    else:
        raise BadInputError(
            f"loss_weights {loss_weights!r} does not fit the losses",
            fix="give it in the form of `loss`: a dict with the same names, a list of the same length, or one number",
        )
    if not all(map(is_number, given.values())):
        raise BadInputError("loss_weights: a weight is not a finite number", fix="give a finite number for each loss")
    return {key: float(given.get(key, 1.0)) for key in keys}


# What Keras keeps beside an output: its mask, and the logits of a sigmoid or softmax, which losses use in its place.
_BESIDE = ("_keras_mask", "_keras_logits")


@dataclass(frozen=True)
class ModelLosses:
    """Losses of a model's outputs: (inputs, labels, training) to the loss of each example, [batch].

    Attributes:
        model: the Keras model.
        loss: function of (labels, outputs) that gives the loss of each example; see `per_example_loss`.
        one_by_one: whether the loss is computed on one example at a time.
    """

    model: Any
    loss: Loss
    one_by_one: bool = False

    def __call__(self, x: Any, y: Any, training: bool) -> Any:
        """Return the losses of a batch, [batch].

        Raises:
            BadInputError: the model or the loss raises an error while a graph is traced.
        """
        with told_as_users_code():
            outputs = self.model(x, training=training)
            with tf.name_scope(LOSS_SCOPE):
                return self._isolated(y, outputs) if self.one_by_one else self.loss(y, outputs)

    def isolated(self) -> ModelLosses:
        """Return the same, on one example at a time."""
        return replace(self, one_by_one=True)

    def _isolated(self, y: Any, outputs: Any) -> Any:
        from privacy_pipeline.dp.clipping.isolate import isolated_call

        both = (y, outputs)
        flat = tf.nest.flatten(both)
        beside = [
            (place, name)
            for place, tensor in enumerate(flat)
            for name in _BESIDE
            if getattr(tensor, name, None) is not None
        ]

        def function(values: Sequence[Any]) -> list[Any]:
            for (place, name), value in zip(beside, values[len(flat) :], strict=True):
                setattr(values[place], name, value)
            labels, made = tf.nest.pack_sequence_as(both, list(values[: len(flat)]))
            return [self.loss(labels, made)]

        given = [*flat, *(getattr(flat[place], name) for place, name in beside)]
        return isolated_call(function, given, name="the loss")[0]
