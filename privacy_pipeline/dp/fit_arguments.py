"""What the arguments of Keras' `fit` mean where a plan decides how a model is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.errors import BadInputError

_Said = Callable[[PrivacyPlan], float]


def _epochs(plan: PrivacyPlan) -> int:
    return -(-plan.steps // plan.steps_per_epoch)


# What may be repeated, if it says what the plan says.
_OF_THE_PLAN: dict[str, tuple[_Said, str]] = {
    "epochs": (_epochs, "epochs"),
    "steps_per_epoch": (lambda plan: plan.steps_per_epoch, "steps an epoch"),
    "batch_size": (lambda plan: plan.expected_batch_size, "examples expected in a batch"),
}
_REFUSED = {
    "initial_epoch": "a run goes on where it was by its `state_dir`",
    "shuffle": "the plan's sampling draws the batches",
    "validation_split": "part of private rows would be scored without noise: give public `validation_data`",
    "validation_steps": "all of `validation_data` is scored",
    "validation_batch_size": "all of `validation_data` is scored",
    "validation_freq": "`validation_data` is scored after each epoch",
    "max_queue_size": "batches are drawn from arrays or an ExampleStore",
    "workers": "batches are drawn from arrays or an ExampleStore",
    "use_multiprocessing": "batches are drawn from arrays or an ExampleStore",
}


def require_as_planned(plan: PrivacyPlan, given: Mapping[str, Any]) -> None:
    """Hold arguments of Keras' `fit` to the plan.

    Args:
        plan: the plan.
        given: arguments by their name; None for one that was left at Keras' default.

    Raises:
        BadInputError: one says something else than the plan, or has no meaning here.
        TypeError: Keras' `fit` does not know it either.
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
            raise BadInputError(f"private training takes no {name}: {_REFUSED[name]}", fix=f"leave {name} out")
        else:
            raise TypeError(f"fit() got an unexpected keyword argument '{name}'")


class Validation:
    """Scores public data after each epoch.

    Args:
        model: the model, compiled.
        data: (x, y), or None.

    Attributes:
        given: whether there is data.

    Raises:
        BadInputError: the model is not compiled, so that there is nothing to score by; or the data is no pair.
    """

    def __init__(self, *, model: Any, data: Any) -> None:
        self._model, self._data, self.given = model, data, data is not None
        if data is None:
            return
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise BadInputError("validation_data is not a pair (x, y)", fix="fit(..., validation_data=(x, y))")
        if getattr(model, "compiled_loss", None) is None:
            raise BadInputError(
                f"model '{model.name}' is not compiled, so that nothing says how validation_data is scored",
                fix="model.compile(loss=..., metrics=[...]) before make_private",
            )

    def logs(self) -> dict[str, float]:
        """Loss and metrics by Keras' names, such as "val_loss"; empty without data."""
        if self._data is None:
            return {}
        x, y = self._data
        found = self._model.evaluate(x, y, verbose=0, return_dict=True)
        return {f"val_{name}": float(value) for name, value in found.items()}


@contextmanager
def optimizer_of_callbacks(model: Any, optimizer: Any) -> Iterator[None]:
    """While open, the model's optimizer is the one that makes the private steps, which schedulers then change."""
    before = getattr(model, "optimizer", None)
    model.optimizer = optimizer
    try:
        yield
    finally:
        model.optimizer = before


def require_same_trained(model: Any, variables: Sequence[Any]) -> None:
    """Hold a model to the weights that its private step trains.

    Raises:
        BadInputError: a callback froze a layer, or thawed one.
    """
    if [one.ref() for one in model.trainable_variables] != [one.ref() for one in variables]:
        raise BadInputError(
            f"a callback changed which layers of model '{model.name}' are trained; the private step does not follow it",
            fix="stop, change `trainable`, and call make_private again; the privacy cost of both adds up",
        )


def not_covered(*, callbacks: bool, validation: bool) -> tuple[str, ...]:
    """What a training hands out, or lets others do, that no noise of it protects."""
    found = []
    if callbacks:
        found.append("what callbacks compute of private rows, and weights that they set")
    if validation:
        found.append("scores of validation_data, which are exact")
    return tuple(found)


def keras_callbacks(callbacks: Any) -> list[Any]:
    """Callbacks as a list; one alone is taken as Keras takes it.

    Raises:
        BadInputError: one is not a Keras callback.
    """
    found = tf.nest.flatten(callbacks)
    for one in found:
        if not isinstance(one, tf.keras.callbacks.Callback):
            named = f"class {one.__name__}" if isinstance(one, type) else repr(one)
            raise BadInputError(f"{named:.80} is not a Keras callback", fix="give tf.keras.callbacks.Callback objects")
    return list(found)


def callback_list(model: Any, callbacks: Any, plan: PrivacyPlan, *, verbose: int) -> Any:
    """Keras' list of callbacks, told of the plan's epochs."""
    return tf.keras.callbacks.CallbackList(
        list(callbacks),
        add_history=False,
        add_progbar=verbose != 0,
        model=model,
        epochs=_epochs(plan),
        steps=plan.steps_per_epoch,
        verbose=verbose,
    )
