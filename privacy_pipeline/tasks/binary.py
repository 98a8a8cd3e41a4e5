"""Two classes: the model gives one logit, of the positive class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.tasks.task import Label, Metric, Score

_PROBABILITY_METRICS = "privacy_pipeline.components.evaluator.probability_metrics"


def _as_it_is(outputs: Any) -> Any:
    return outputs


def _sign_accuracy() -> Any:
    import tensorflow as tf

    return tf.keras.metrics.BinaryAccuracy(threshold=0.0)


def _probability(outputs: Any) -> Any:
    import tensorflow as tf

    return tf.sigmoid(outputs)


def _auc() -> Any:
    import tensorflow as tf

    return tf.keras.metrics.AUC()  # by 200 thresholds


class Binary:
    """Cross-entropy of one logit; the model serves its sigmoid."""

    name = "binary"
    is_number = False
    has_positive_class = True
    output = "logit"
    metrics = (
        Metric(
            name="accuracy",
            tfma_class="BinaryAccuracy",
            tfma_name="binary_accuracy",
            headline=True,
            from_counts=True,
        ),
        Metric(name="auc", tfma_class="AUC", tfma_name="auc", headline=True),
        Metric(name="pr_auc", tfma_class="AUCPrecisionRecall", tfma_name="auc_precision_recall"),
        Metric(name="precision", tfma_class="Precision", tfma_name="precision", from_counts=True),
        Metric(name="recall", tfma_class="Recall", tfma_name="recall", from_counts=True),
        Metric(
            name="log_loss",
            tfma_class="LogLoss",
            tfma_name="log_loss",
            tfma_module=_PROBABILITY_METRICS,
            larger_is_better=False,
        ),
        Metric(
            name="ece",
            tfma_class="ExpectedCalibrationError",
            tfma_name="ece",
            tfma_module=_PROBABILITY_METRICS,
            larger_is_better=False,
        ),
    )
    counts = ("TruePositives", "FalsePositives", "TrueNegatives", "FalseNegatives", "ExampleCount")
    prediction = "probability"
    scores: Mapping[str, Score] = {
        "accuracy": Score(of=_as_it_is, measure=_sign_accuracy),
        "auc": Score(of=_probability, measure=_auc),
    }

    cannot: Mapping[str, str] = {}

    def width(self, classes: int) -> int:
        """Return 1: the logit of the positive class."""
        del classes
        return 1

    def require_model(self, model: Any, *, what: str, classes: int) -> None:
        """Refuse a model that does not end in one logit.

        Raises:
            BadInputError: it has another output, or a sigmoid at the end.
        """
        import tensorflow as tf

        del classes
        if tuple(model.output_shape) != (None, 1):
            raise BadInputError(f"{what} has output shape {model.output_shape}, not (None, 1)", fix="end in Dense(1)")
        if getattr(model.layers[-1], "activation", None) is tf.keras.activations.sigmoid:
            raise BadInputError(f"{what} ends in a sigmoid; backends expect the logit", fix="drop the last activation")

    def loss(self) -> Any:
        """Return the mean cross-entropy."""
        import tensorflow as tf

        return tf.keras.losses.BinaryCrossentropy(from_logits=True)

    def row_losses(self, labels: Any, outputs: Any) -> Any:
        """Return the cross-entropy of each row."""
        import tensorflow as tf

        return tf.keras.losses.binary_crossentropy(labels, outputs, from_logits=True)

    def curves(self) -> list[Any]:
        """Return accuracy and AUC."""
        import tensorflow as tf

        return [
            # The output is a logit, so 0 and not 0.5 divides the classes.
            tf.keras.metrics.BinaryAccuracy("accuracy", threshold=0.0),
            tf.keras.metrics.AUC(name="auc", from_logits=True),
        ]

    def served(self, outputs: Any, *, label: Label) -> dict[str, Any]:
        """Return the probability of the positive class: float32, [batch, 1]."""
        del label
        return {self.prediction: _probability(outputs)}

    def metric_settings(self, label: Label | None) -> Mapping[str, float]:
        """Return no argument: the metrics are of probabilities."""
        del label
        return {}


BINARY = Binary()
