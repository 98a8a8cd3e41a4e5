"""A number: the model gives its place in the label's public range, and serves it in the label's units."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.tasks.task import FOR_TWO_CLASSES, Label, Metric, Score

_metric = partial(Metric, tfma_module="privacy_pipeline.components.evaluator.number_metrics")


class Regression:
    """Squared error of a number that is scaled by its public range."""

    name = "regression"
    is_number = True
    has_positive_class = False
    output = "scaled"
    metrics = (
        _metric(name="mae", tfma_class="MeanErrorInUnits", tfma_name="mae", larger_is_better=False, headline=True),
        _metric(name="rmse", tfma_class="RootMeanSquareInUnits", tfma_name="rmse", larger_is_better=False),
        _metric(name="r2", tfma_class="RSquared", tfma_name="r2", headline=True),
        _metric(
            name="median_absolute_error",
            tfma_class="MedianErrorInUnits",
            tfma_name="median_absolute_error",
            larger_is_better=False,
        ),
    )
    counts = ("ExampleCount",)
    prediction = "value"
    scores: Mapping[str, Score] = {}
    cannot: Mapping[str, str] = {
        **FOR_TWO_CLASSES,
        "training.encrypted": "train with another backend: private predictions are those of two classes",
    }

    def width(self, classes: int) -> int:
        """Return 1: the number."""
        del classes
        return 1

    def require_model(self, model: Any, *, what: str, classes: int) -> None:
        """Refuse a model that does not end in one number.

        Raises:
            BadInputError: it has another output.
        """
        del classes
        if tuple(model.output_shape) != (None, 1):
            raise BadInputError(f"{what} has output shape {model.output_shape}, not (None, 1)", fix="end in Dense(1)")

    def loss(self) -> Any:
        """Return the mean squared error of scaled numbers."""
        import tensorflow as tf

        return tf.keras.losses.MeanSquaredError()

    def row_losses(self, labels: Any, outputs: Any) -> Any:
        """Return the squared error of each row."""
        import tensorflow as tf

        return tf.keras.losses.mean_squared_error(labels, outputs)

    def curves(self) -> list[Any]:
        """Return the mean absolute error, as a share of the label's range."""
        import tensorflow as tf

        return [tf.keras.metrics.MeanAbsoluteError("scaled_mae")]

    def served(self, outputs: Any, *, label: Label) -> dict[str, Any]:
        """Return `value` in the label's units, within its public range: float32, [batch, 1]."""
        import tensorflow as tf

        minimum, maximum = range_of(label)
        return {self.prediction: tf.clip_by_value(minimum + outputs * (maximum - minimum), minimum, maximum)}

    def metric_settings(self, label: Label | None) -> Mapping[str, float]:
        """Return the label's range, in whose units errors are."""
        minimum, maximum = range_of(label)
        return {"minimum": minimum, "maximum": maximum}


def range_of(label: Label | None) -> tuple[float, float]:
    """Return the public range of a number."""
    if label is None or label.label_range is None:
        raise ValueError("the label of a regression has a public range")
    minimum, maximum = label.label_range
    return float(minimum), float(maximum)


REGRESSION = Regression()
