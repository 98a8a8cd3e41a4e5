"""What of Keras' training a private step follows, and what it refuses."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from privacy_pipeline.config.models.ranges import LEARNING_RATE
from privacy_pipeline.dp.checks.other_libraries import other_model, other_optimizer, require_own_step
from privacy_pipeline.dp.mechanism.mechanism import require, require_flags
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.errors import BadInputError


def require_kinds(model: Any, plan: Any) -> None:
    """Refuse what is not a Keras model, or not a plan.

    Raises:
        BadInputError: naming what was given.
    """
    if not isinstance(model, tf.keras.Model):
        raise other_model(model)
    if not isinstance(plan, PrivacyPlan):
        raise BadInputError(f"{_told(plan)} is not a PrivacyPlan", fix="make one with PrivacyPlan.calibrated(...)")


def require_arguments(*, remember: Any, state_dir: Any, **texts: Any) -> None:
    """Refuse arguments of `make_private` that are of no use, before anything is kept by them.

    Args:
        remember: true or false.
        state_dir: a path, or None.
        texts: by name.

    Raises:
        BadInputError: naming the argument.
    """
    require_flags(remember=remember)
    for name, text in texts.items():
        require(isinstance(text, str) and _is_plain(text), f"{name} must be a text of Unicode, found {text!r:.60}")
    if state_dir is not None:
        plain = isinstance(state_dir, os.PathLike) or (isinstance(state_dir, str) and _is_plain(state_dir))
        require(plain and "\0" not in str(state_dir), f"state_dir must be a path, found {state_dir!r:.60}")


def _is_plain(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _told(value: Any) -> str:
    """Return a value as an error names it."""
    return f"class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def require_keras_step(model: Any) -> None:
    """Refuse a model that trains by code of its own, which no private step would run.

    Raises:
        BadInputError: it, or its class, overrides a method of Keras' training.
    """
    require_own_step(model)
    for name in ("train_step", "compute_loss", "make_train_function", "fit"):
        own = name in vars(model) and name != "fit"
        if own or getattr(type(model), name, None) is not getattr(tf.keras.Model, name):
            raise BadInputError(
                f"model '{model.name}' has a {name} of its own, which private training does not run",
                fix="put what it does into layers and the loss",
            )


def keras_optimizer(optimizer: Any, *, steps: int) -> Any:
    """Return a Keras optimizer that a private step can use, by its name or configuration, or as it is.

    Args:
        optimizer: the optimizer.
        steps: of the training.

    Raises:
        BadInputError: Keras has none of this name, it is a legacy one, of another library or scales losses, or its
            learning rate is out of `ranges.LEARNING_RATE`.
    """
    if isinstance(optimizer, type):
        raise BadInputError(f"{_told(optimizer)} is not an optimizer", fix=f"make one: {optimizer.__name__}(...)")
    if not isinstance(optimizer, (str, Mapping)):
        _require_current(optimizer)
    try:
        found = tf.keras.optimizers.get(optimizer)
    except (ValueError, TypeError, KeyError):  # as Keras refuses names, settings and dicts
        raise BadInputError(
            f"Keras has no optimizer {optimizer!r:.200}",
            fix='give a name such as "sgd" or "adam", or a Keras optimizer',
        ) from None
    _require_current(found)
    _require_plain_update(found)
    _require_learning_rate(found, steps=steps)
    return found


def _require_current(optimizer: Any) -> None:
    """Refuse optimizers that do not take the gradients of a step as they are.

    Raises:
        BadInputError: it is a legacy one, one of another library, or scales losses.
    """
    if isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer):
        raise BadInputError(
            "LossScaleOptimizer is not needed: sums of gradients are formed in float32 in any precision",
            fix="give its `inner_optimizer`",
        )
    if not isinstance(optimizer, tf.keras.optimizers.Optimizer):
        raise other_optimizer(optimizer)


def _require_plain_update(optimizer: Any) -> None:
    """Refuse optimizers that do more than to apply the gradients of a step.

    Raises:
        BadInputError: it forms gradients by code of its own, or ends a training with averages of the weights.
    """
    for name in ("compute_gradients", "minimize"):
        if name in vars(optimizer) or getattr(type(optimizer), name) is not getattr(
            tf.keras.optimizers.Optimizer, name
        ):
            raise BadInputError(
                f"optimizer {optimizer.name} has a {name} of its own, which private training does not run",
                fix="put what it does into `apply_gradients`, which gets the noisy gradients",
            )
    if getattr(optimizer, "use_ema", False):
        raise BadInputError(
            f"optimizer {optimizer.name} has use_ema, and private training does not put averages in the weights' place",
            fix="leave it out; average weights after epochs in a callback, which costs no privacy",
        )


def _require_learning_rate(optimizer: Any, *, steps: int) -> None:
    """Refuse a learning rate out of range: a constant one, or one of a schedule's first and last step and its pieces.

    Raises:
        BadInputError: it is out of `ranges.LEARNING_RATE`.
    """
    rate = getattr(optimizer, "_learning_rate", None)
    if rate is None:  # Keras' legacy optimizers
        rate = getattr(optimizer, "learning_rate", None)
    if isinstance(rate, tf.keras.optimizers.schedules.LearningRateSchedule):
        found = {"learning_rate of the first step": rate(0), "learning_rate of the last step": rate(steps - 1)}
        found.update({f"learning_rate {value:g} of the schedule": value for value in getattr(rate, "values", ())})
    else:
        found = {} if rate is None else {"learning_rate": rate}
    for name, value in found.items():
        if float(value) != 0:  # at 0, where a warm-up begins and a decay ends, a step moves nothing
            LEARNING_RATE.require(name, float(value))


def build_optimizer(optimizer: Any, variables: Sequence[Any]) -> None:
    """Make an optimizer's slots for the weights that a step trains.

    Raises:
        BadInputError: it was made for other weights before.
    """
    optimizer.build(variables)
    if not isinstance(optimizer, tf.keras.optimizers.Optimizer):
        return  # one of the project's own, which holds what it is built for
    known = getattr(optimizer, "_index_dict", {})
    if any(optimizer._var_key(variable) not in known for variable in variables):
        raise BadInputError(
            f"the optimizer {optimizer.name} was used for other weights: another model's, or before layers were thawed",
            fix="call make_private with a new optimizer",
        )
