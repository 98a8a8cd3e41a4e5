"""What a backend expects of a Keras model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import tensorflow as tf

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.tasks.task import Task


def require_usable(model: Any, *, use: str, inputs: Collection[str], task: Task, classes: int) -> None:
    """Refuse a model that no backend can train.

    Args:
        model: what `build_model` gave.
        use: the module's name, for messages.
        inputs: names of the features that there are.
        task: what it has to answer.
        classes: number of classes of the label.

    Raises:
        BadInputError: it is not a functional Keras model with the output of the task, or needs other inputs.
    """
    what = f"model: build_model of '{use}'"
    if not isinstance(model, tf.keras.Model) or not getattr(model, "inputs", None):
        raise BadInputError(f"{what} returns no functional or built sequential Keras model", fix="return one")
    task.require_model(model, what=what, classes=classes)
    unknown = sorted(set(model.input_names) - set(inputs))
    if unknown:
        raise BadInputError(
            f"{what} has inputs {unknown} that preprocessing_fn does not make",
            fix=f"name the model's inputs after the features: {sorted(inputs)}",
        )
