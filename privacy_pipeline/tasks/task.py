"""The protocol of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of the exact evaluation.

    Attributes:
        name: in configs, records and tables.
        tfma_class: TensorFlow Model Analysis computes it.
        tfma_name: what TensorFlow Model Analysis calls the result.
        tfma_module: where the class is; empty for a class of TensorFlow Model Analysis or Keras.
        larger_is_better: whether thresholds are `min` and `max_decrease`; else they are `max` and `max_increase`.
        headline: whether lists of runs show it.
        from_counts: whether it follows from confusion counts at one decision threshold, as a DP evaluation releases.
    """

    name: str
    tfma_class: str
    tfma_name: str
    tfma_module: str = ""
    larger_is_better: bool = True
    headline: bool = False
    from_counts: bool = False


@dataclass(frozen=True, kw_only=True)
class Score:
    """How a tuning scores a trial: a Keras metric, exact, as a function of sums of ones over rows.

    Attributes:
        of: gives a float32 [batch, 1] tensor of the metric's input from the model's output.
        measure: makes a Keras metric.
    """

    of: Callable[[Any], Any]
    measure: Callable[[], Any]


class Label(Protocol):
    """What a task asks of a label: public facts of the schema. A feature plan has them."""

    @property
    def label_domain(self) -> tuple[str, ...]:
        """Its values; none for a number."""
        ...

    @property
    def label_range(self) -> tuple[float, float] | None:
        """Least and largest value of a number; None for classes."""
        ...


# Parts of a config that are made for two classes, as `Task.cannot` has them.
FOR_TWO_CLASSES = {
    "evaluation.dp": "drop it: a DP evaluation counts two classes",
    "preprocessing.dp": "state ranges and domains in the schema",
    "training.tuning": "drop it: a tuning scores two classes",
}


class Task(Protocol):
    """What the parts of a pipeline ask of a task. `outputs` is what the model returns: float32, [batch, width]."""

    @property
    def name(self) -> str:
        """Name in configs."""
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Metrics of the exact evaluation, in the order of tables."""
        ...

    @property
    def counts(self) -> tuple[str, ...]:
        """Counts, as classes of TensorFlow Model Analysis, by which a slice shows which metrics it defines."""
        ...

    @property
    def prediction(self) -> str:
        """Key of `served` that the evaluation reads."""
        ...

    @property
    def scores(self) -> Mapping[str, Score]:
        """Scores that `training.tuning.metric` may name."""
        ...

    @property
    def is_number(self) -> bool:
        """Whether the label is a number to be predicted, which has a public range and no classes."""
        ...

    @property
    def has_positive_class(self) -> bool:
        """Whether one value of the label counts as positive, which the config names."""
        ...

    @property
    def output(self) -> str:
        """Name of the last layer of `model.use: tabular`."""
        ...

    @property
    def cannot(self) -> Mapping[str, str]:
        """Parts of a config that do not go with the task, by dotted key, each with what to do instead."""
        ...

    def width(self, classes: int) -> int:
        """Return the number of the model's outputs.

        Args:
            classes: number of classes of the label; 0 for a number.
        """
        ...

    def require_model(self, model: Any, *, what: str, classes: int) -> None:
        """Refuse a model whose output is not that of the task.

        Args:
            model: a functional or built sequential Keras model.
            what: starts the message.
            classes: as of `width`.

        Raises:
            BadInputError: it is not.
        """
        ...

    def loss(self) -> Any:
        """Return the Keras loss of outputs and labels: the mean over a batch."""
        ...

    def row_losses(self, labels: Any, outputs: Any) -> Any:
        """Return the loss of each row: float32, [batch].

        Args:
            labels: float32, [batch, 1]: places of classes, or numbers scaled to 0 to 1 by the label's range.
            outputs: of the model.
        """
        ...

    def curves(self) -> list[Any]:
        """Return the Keras metrics that a training without a guarantee shows after each epoch."""
        ...

    def served(self, outputs: Any, *, label: Label) -> dict[str, Any]:
        """Return what the signature `serving_default` gives for outputs.

        Args:
            outputs: of the model.
            label: public facts of the label.
        """
        ...

    def metric_settings(self, label: Label | None) -> Mapping[str, float]:
        """Return the arguments of each metric's class.

        Args:
            label: public facts of the label; None where nothing public is known.
        """
        ...
