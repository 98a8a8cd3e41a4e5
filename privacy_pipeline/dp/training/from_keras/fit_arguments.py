"""What the arguments of Keras' `fit` mean where a plan decides how a model is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.errors import BadInputError

_Said = Callable[[PrivacyPlan], float]


def _epochs(plan: PrivacyPlan) -> int:
    return -(-plan.steps // plan.steps_per_epoch)


# What may be repeated, if it agrees with the plan.
_OF_THE_PLAN: dict[str, tuple[_Said, str]] = {
    "epochs": (_epochs, "epochs"),
    "steps_per_epoch": (lambda plan: plan.steps_per_epoch, "steps an epoch"),
    "batch_size": (lambda plan: plan.expected_batch_size, "examples expected in a batch"),
}
# What may stay at Keras' default, and has no meaning here otherwise.
_REFUSED: dict[str, tuple[Any, str]] = {
    "initial_epoch": (0, "a run goes on where it was by its `state_dir`"),
    "shuffle": (True, "the plan's sampling draws the batches"),
    "validation_split": (0.0, "part of private rows would be scored without noise: give public `validation_data`"),
    "validation_steps": (None, "all of `validation_data` is scored"),
    "validation_batch_size": (None, "all of `validation_data` is scored"),
    "validation_freq": (1, "`validation_data` is scored after each epoch"),
    "max_queue_size": (10, "batches are drawn from arrays or an ExampleStore"),
    "workers": (1, "batches are drawn from arrays or an ExampleStore"),
    "use_multiprocessing": (False, "batches are drawn from arrays or an ExampleStore"),
}
_ORDER = ("batch_size", "epochs", "verbose", "callbacks", "validation_split", "validation_data", "shuffle")


def refuse_positional(given: Sequence[Any]) -> None:
    """Refuse arguments after x and y that are given by their place.

    Raises:
        BadInputError: naming them as Keras does.
    """
    if given:
        named = ", ".join(f"{name}={value!r:.30}" for name, value in zip(_ORDER, given, strict=False))
        raise BadInputError("arguments after x and y are given by name", fix=f"fit(x, y, {named})")


def require_as_planned(plan: PrivacyPlan, given: Mapping[str, Any]) -> None:
    """Check arguments of Keras' `fit` against the plan.

    Args:
        plan: the plan.
        given: arguments by their name; None for one that was left at Keras' default.

    Raises:
        BadInputError: one differs from the plan, or has no meaning here.
        TypeError: Keras' `fit` does not have it either.
    """
    for name, value in given.items():
        if name in _OF_THE_PLAN:
            planned, words = _OF_THE_PLAN[name]
            if value is not None and value != planned(plan):
                raise BadInputError(
                    f"{name}={value!r}: the plan has {planned(plan):g} {words}",
                    fix="leave it out, or make a plan of other numbers with PrivacyPlan.calibrated",
                )
        elif name in _REFUSED:
            default, why = _REFUSED[name]
            if type(value) is not type(default) or value != default:
                raise BadInputError(f"private training takes no {name}: {why}", fix=f"leave {name} out")
        else:
            raise TypeError(f"fit() got an unexpected keyword argument '{name}'")


class Validation:
    """Scores public data after each epoch.

    Args:
        model: the model, compiled.
        data: (x, y), (x, y, sample_weight) or a `tf.data.Dataset` of batches of them; or None.

    Attributes:
        given: whether there is data.

    Raises:
        BadInputError: the model is not compiled, so it has no metrics; or the data is something else, or does not fit
            the model. The first rows are scored before training, so that this error comes before a step is paid.
    """

    def __init__(self, *, model: Any, data: Any) -> None:
        self._model, self._data, self.given = model, data, data is not None
        if data is None:
            return
        batches = isinstance(data, tf.data.Dataset)
        if not batches and (not isinstance(data, (tuple, list)) or len(data) not in (2, 3)):
            raise BadInputError(
                "validation_data is not (x, y), (x, y, sample_weight) or a tf.data.Dataset",
                fix="fit(..., validation_data=(x, y))",
            )
        if getattr(model, "compiled_loss", None) is None:
            raise BadInputError(
                f"model '{model.name}' is not compiled, so that nothing defines how validation_data is scored",
                fix="model.compile(loss=..., metrics=[...]) before make_private",
            )
        self._try()

    def _try(self) -> None:
        data = self._data
        try:
            if isinstance(data, tf.data.Dataset):
                self._scores(data.take(1))
            else:
                self._scores([tf.nest.map_structure(lambda part: part[:1], _sliceable(part)) for part in data])
        except (ValueError, TypeError, IndexError, tf.errors.InvalidArgumentError) as error:
            told = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "")
            raise BadInputError(
                f"validation_data does not fit model '{self._model.name}': {told:.200}",
                fix="give it the shapes and types of the training data; no step was made",
            ) from error

    def logs(self) -> dict[str, float]:
        """Return loss and metrics by Keras' names, such as "val_loss"; empty without data."""
        if self._data is None:
            return {}
        return {f"val_{name}": float(value) for name, value in self._scores(self._data).items()}

    def _scores(self, data: Any) -> Mapping[str, Any]:
        if isinstance(data, tf.data.Dataset):
            found: Mapping[str, Any] = self._model.evaluate(data, verbose=0, return_dict=True)
            return found
        x, y, *weights = data
        found = self._model.evaluate(x, y, sample_weight=(weights or [None])[0], verbose=0, return_dict=True)
        return found


def _sliceable(part: Any) -> Any:
    """Return arrays for tables of pandas and lists, whose rows are cut off as those of arrays."""
    return tf.nest.map_structure(lambda one: one if tf.is_tensor(one) else np.asarray(one), part)


@contextmanager
def optimizer_of_callbacks(model: Any, optimizer: Any) -> Iterator[None]:
    """While open, the optimizer of the private steps is the model's: schedulers change it, and saves hold it."""
    before, config = getattr(model, "optimizer", None), getattr(model, "_compile_config", None)
    model.optimizer = optimizer
    if config is not None and before is not optimizer:
        model._compile_config = type(config)(**{**config.config, "optimizer": optimizer})
    try:
        yield
    finally:
        model.optimizer = before
        if config is not None:
            model._compile_config = config


def require_same_trained(model: Any, variables: Sequence[Any]) -> None:
    """Check that a model still trains the weights that its private step trains.

    Raises:
        BadInputError: a callback froze a layer, or thawed one.
    """
    if [one.ref() for one in model.trainable_variables] != [one.ref() for one in variables]:
        raise BadInputError(
            f"a callback changed which layers of model '{model.name}' are trained; the private step does not follow it",
            fix="stop, change `trainable`, and call make_private again; the privacy cost of both adds up",
        )


def not_covered(*, callbacks: bool, validation: bool) -> tuple[str, ...]:
    """Return what a training hands out, or lets others do, that no noise of it protects."""
    found = []
    if callbacks:
        found.append("what callbacks compute of private rows")
    if validation:
        found.append("scores of validation_data, which are exact")
    return tuple(found)


def keras_callbacks(callbacks: Any) -> list[Any]:
    """Return callbacks as a list; one alone is taken as Keras takes it.

    Raises:
        BadInputError: one is not a Keras callback.
    """
    found = [] if callbacks is None else tf.nest.flatten(callbacks)
    for one in found:
        if not isinstance(one, tf.keras.callbacks.Callback):
            named = f"class {one.__name__}" if isinstance(one, type) else repr(one)
            raise BadInputError(f"{named:.80} is not a Keras callback", fix="give tf.keras.callbacks.Callback objects")
    return list(found)


def callback_list(model: Any, callbacks: Any, plan: PrivacyPlan, *, verbose: int) -> Any:
    """Return Keras' list of callbacks, set up with the plan's epochs."""
    return tf.keras.callbacks.CallbackList(
        list(callbacks),
        add_history=False,
        add_progbar=verbose != 0,
        model=model,
        epochs=_epochs(plan),
        steps=plan.steps_per_epoch,
        verbose=verbose,
    )
