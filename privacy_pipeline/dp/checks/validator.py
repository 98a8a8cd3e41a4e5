"""Finds what breaks the bound on one example's influence, before any data is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from privacy_pipeline.dp.checks.adapted import adapted, holds_tables
from privacy_pipeline.errors import BadInputError

_Layers = tf.keras.layers
_MOST_GROUPS = 32  # Wu and He 2018, "Group Normalization": 32 groups, fewer where there are fewer channels


@dataclass(frozen=True)
class Problem:
    """One reason why a model cannot be trained privately as it is.

    Attributes:
        layer: name of the layer, or of the model.
        kind: short name of the reason.
        message: what is wrong.
        instead: what to use instead.
    """

    layer: str
    kind: str
    message: str
    instead: str

    def __str__(self) -> str:
        return f"layer '{self.layer}': {self.message}; {self.instead}"


def _layers(model: Any) -> list[Any]:
    return list(model._flatten_layers())


def _crosses_examples(layer: Any) -> Problem | None:
    if isinstance(layer, _Layers.BatchNormalization):  # SyncBatchNormalization is one
        frozen = not layer.trainable
        if frozen:
            return None  # runs in inference mode: a fixed affine map of each example
        return Problem(
            layer.name,
            "cross_example",
            f"{type(layer).__name__} mixes the examples of a batch and stores their exact statistics",
            "use GroupNormalization or LayerNormalization (validate(model, fix=True) swaps it), or freeze it",
        )
    if isinstance(layer, _Layers.UnitNormalization) and _has_batch_axis(layer.axis):
        return Problem(layer.name, "cross_example", "UnitNormalization along the batch axis", "leave axis 0 out")
    if isinstance(layer, _Layers.LayerNormalization) and _has_batch_axis(layer.axis):
        return Problem(layer.name, "cross_example", "LayerNormalization along the batch axis", "leave axis 0 out")
    return None


def _misstated(model: Any) -> Iterator[Problem]:
    """Yield weights of another shape than their variables state, which whatever follows from shapes would rest on."""
    for weight in (one for one in model.weights if isinstance(one, tf.Variable)):  # a table is none
        found = weight.read_value().shape
        if not weight.shape.is_compatible_with(found):
            yield Problem(
                model.name,
                "shape",
                f"weight '{weight.name}' states shape {weight.shape} and holds values of shape {found}",
                "assign values of the stated shape",
            )


def _has_batch_axis(axis: Any) -> bool:
    return 0 in (list(axis) if isinstance(axis, (list, tuple)) else [axis])


def _has_losses(layer: Any) -> Iterator[Problem]:
    # Keras keeps lists of its own under similar names, and some regularizers under two.
    held = {name.lstrip("_") for name, value in vars(layer).items() if callable(value)}
    regularizers = sorted(name for name in held if name.endswith("regularizer"))
    if isinstance(layer, _Layers.ActivityRegularization):
        yield Problem(layer.name, "add_loss", "it adds a loss of its own", "put it into the loss function")
        return
    for name in regularizers:
        yield Problem(
            layer.name,
            "regularizer",
            f"{name} adds a loss that belongs to no example",
            "drop it, or use an optimizer with weight_decay, which acts on noisy gradients alone",
        )
    if regularizers:
        return  # Keras holds each of them among the losses, too
    if layer._losses or layer._callable_losses or layer._eager_losses:
        yield Problem(
            layer.name,
            "add_loss",
            "it calls add_loss, whose gradient would not be clipped by example",
            "put it into the loss function, as a value for each example",
        )


def _has_state(layer: Any) -> Iterator[Problem]:
    if getattr(layer, "stateful", False) and not isinstance(layer, tf.keras.Model):
        yield Problem(layer.name, "stateful", "it keeps state from batch to batch", "set stateful=False")
    if isinstance(layer, _Layers.SpectralNormalization):
        yield Problem(
            layer.name,
            "stateful",
            "it updates variables during the forward pass, outside of any noisy gradient",
            "use a layer without power iteration",
        )
    if holds_tables(layer):
        yield Problem(
            layer.name,
            "stateful",
            "it holds a MutableHashTable or DenseHashTable, which can keep exact rows",
            "use a tf.lookup.StaticHashTable of constants or of a public file",
        )


def _has_precision(layer: Any) -> Iterator[Problem]:
    if layer.variable_dtype in ("float16", "bfloat16"):
        yield Problem(
            layer.name,
            "precision",
            f"its variables are {layer.variable_dtype}, in which sums are rounded past the bound",
            "use a mixed_ policy, or float32",
        )


def state_problems(model: Any) -> list[Problem]:
    """Return layers that hold what data taught them, or whose state training would move past any private update."""
    found: list[Problem] = []
    for layer in _layers(model):
        if isinstance(layer, _Layers.BatchNormalization):
            crossing = _crosses_examples(layer)
            found.extend([crossing] if crossing is not None else [])
        found.extend(Problem(layer.name, "data_statistics", *told) for told in adapted(layer))
        found.extend(_has_state(layer))
    return found


def problems_of(model: Any) -> list[Problem]:
    """Return all that the model's structure shows; see `validate`."""
    found: list[Problem] = []
    for layer in _layers(model):
        crossing = _crosses_examples(layer)
        found.extend([crossing] if crossing is not None else [])
        found.extend(Problem(layer.name, "data_statistics", *told) for told in adapted(layer))
        found.extend(_has_losses(layer))
        found.extend(_has_state(layer))
        found.extend(_has_precision(layer))
    if not model.built:
        found.append(Problem(model.name, "not_built", "it has no variables yet", "call model.build(input_shape) first"))
    elif not model.trainable_variables:
        found.append(Problem(model.name, "nothing_to_train", "no variable trains", "set trainable on some layer"))
    else:
        found.extend(_misstated(model))
    return found


def _group_normalization(layer: Any, channels: int) -> Any:
    groups = max(count for count in range(1, min(_MOST_GROUPS, channels) + 1) if channels % count == 0)
    return _Layers.GroupNormalization(
        groups=groups,
        axis=-1,
        epsilon=layer.epsilon,
        center=layer.center,
        scale=layer.scale,
        name=f"{layer.name}_as_group_norm",
    )


def with_group_normalization(model: Any) -> Any:
    """Return a model with GroupNormalization in place of each BatchNormalization; other layers are new, weights are
    copied.

    Args:
        model: functional or Sequential model.

    Raises:
        BadInputError: a subclassed model, or channels that do not come last.
    """
    if not isinstance(model, tf.keras.Sequential) and not model._is_graph_network:
        raise BadInputError(
            f"model '{model.name}' is a subclassed model; its layers cannot be swapped from outside",
            fix="use GroupNormalization in its code",
        )

    def swap(layer: Any) -> Any:
        if not isinstance(layer, _Layers.BatchNormalization):
            return layer.__class__.from_config(layer.get_config())
        shape = layer.gamma.shape if layer.scale else layer.moving_mean.shape
        axis = [place % layer.input_spec.ndim for place in layer.axis]
        if axis != [layer.input_spec.ndim - 1]:
            raise BadInputError(f"layer '{layer.name}' normalises axis {axis}, not the last one")
        return _group_normalization(layer, int(shape[0]))

    fixed = tf.keras.models.clone_model(model, clone_function=swap)
    for old, new in zip(model.layers, fixed.layers, strict=True):
        if not isinstance(old, _Layers.BatchNormalization):
            new.set_weights(old.get_weights())
            new.trainable = old.trainable
    return fixed


def validate(model: Any, *, fix: bool = False) -> list[Problem] | Any:
    """Return what stands in the way of training a model privately.

    Looks at the structure alone: no data is needed. What a structure cannot show (a Lambda that averages over the
    batch, a variable that is assigned in `call`) is found by `make_private`'s check on made-up inputs.

    Args:
        model: Keras model.
        fix: swap BatchNormalization for GroupNormalization, and give back the new model in place of the list.

    Returns:
        The problems, none if the model is fine; with `fix`, a model.

    Raises:
        BadInputError: with `fix`, a model in which something is wrong that no swap mends.
    """
    if not fix:
        return problems_of(model)
    fixed = with_group_normalization(model)
    require_private(fixed)
    return fixed


def require_private(model: Any) -> None:
    """Refuse a model that has problems.

    Raises:
        BadInputError: naming each layer, and what to use instead.
    """
    found = problems_of(model)
    if not found:
        return
    first = found[0]
    told = [f"layer '{first.layer}': {first.message}"] if len(found) == 1 else [str(problem) for problem in found]
    raise BadInputError(f"the model cannot be trained privately: {'; '.join(told)}", fix=first.instead)
