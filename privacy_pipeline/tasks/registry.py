"""Which tasks there are. A task is added by its module and one line here. Imports no TensorFlow."""

from __future__ import annotations

import pkgutil
from typing import Protocol

from privacy_pipeline.tasks.task import Metric, Task

_FOLDER = "privacy_pipeline.tasks"
_TASKS = ("binary:BINARY", "multiclass:MULTICLASS", "regression:REGRESSION")
_FOUND: tuple[Task, ...] = tuple(pkgutil.resolve_name(f"{_FOLDER}.{place}") for place in _TASKS)
REGISTRY = {task.name: task for task in _FOUND}


class HasTask(Protocol):
    """What names a task: the config's dataset, or a feature plan."""

    @property
    def task(self) -> str:
        """Name of a task in the registry."""
        ...


def name_of(positive_class: str | int | None, *, is_number: bool = False) -> str:
    """Return the name of a label's task: it is a number, one of its values is the positive class, or each is a class.

    Args:
        positive_class: the value that counts as positive; None where there is none.
        is_number: whether the label is a number to be predicted.
    """
    asked = (is_number, not is_number and positive_class is not None)
    return next(task.name for task in _FOUND if (task.is_number, task.has_positive_class) == asked)


def of(named: HasTask) -> Task:
    """Return the task of a dataset.

    Args:
        named: the config's dataset, or its feature plan.
    """
    return REGISTRY[named.task]


def metrics() -> dict[str, Metric]:
    """Return the metrics of all tasks by name, in the order of tables; one that several have is the first one's."""
    found: dict[str, Metric] = {}
    for task in REGISTRY.values():
        for metric in task.metrics:
            found.setdefault(metric.name, metric)
    return found


def headlines() -> tuple[str, ...]:
    """Return the names of the metrics of all tasks that lists of runs show, in the order of tables."""
    return tuple(name for name, metric in metrics().items() if metric.headline)


def metric_names() -> dict[str, str]:
    """Return our name of each metric, by the name that TensorFlow Model Analysis gives its result."""
    return {metric.tfma_name: metric.name for task in REGISTRY.values() for metric in task.metrics}
