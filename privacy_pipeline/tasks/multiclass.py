"""Several classes: the model gives a logit for each value of the label's public domain, in the order of the schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.tasks.task import Label, Metric, Score

_CLASS_METRICS = "privacy_pipeline.components.evaluator.class_metrics"


def _metric(
    name: str, tfma_class: str, tfma_name: str, *, larger_is_better: bool = True, headline: bool = False
) -> Metric:
    return Metric(
        name=name,
        tfma_class=tfma_class,
        tfma_name=tfma_name,
        tfma_module=_CLASS_METRICS,
        larger_is_better=larger_is_better,
        headline=headline,
    )


class Multiclass:
    """Cross-entropy of the label's class; the model serves the softmax and the most likely class."""

    name = "multiclass"
    is_number = False
    has_positive_class = False
    output = "logits"
    metrics = (
        _metric("accuracy", "ClassAccuracy", "class_accuracy", headline=True),
        _metric("top_3_accuracy", "TopAccuracy", "top_3_accuracy"),
        _metric("macro_f1", "MacroF1", "macro_f1", headline=True),
        _metric("log_loss", "ClassLogLoss", "class_log_loss", larger_is_better=False),
        _metric("ece", "TopLabelCalibrationError", "top_label_calibration_error", larger_is_better=False),
    )
    counts = ("ExampleCount",)
    prediction = "probabilities"
    scores: Mapping[str, Score] = {}
    cannot: Mapping[str, str] = {
        "evaluation.dp": "drop it: a DP evaluation counts two classes",
        "preprocessing.dp": "state ranges and domains in the schema",
        "training.encrypted": "train with another backend: private predictions have one logit",
        "training.tuning": "drop it: a tuning scores two classes",
    }

    def width(self, classes: int) -> int:
        """Return one logit a class."""
        return classes

    def require_model(self, model: Any, *, what: str, classes: int) -> None:
        """Refuse a model that does not end in one logit a class.

        Raises:
            BadInputError: it has another output, or a softmax at the end.
        """
        import tensorflow as tf

        if tuple(model.output_shape) != (None, classes):
            raise BadInputError(
                f"{what} has output shape {model.output_shape}, not (None, {classes})", fix=f"end in Dense({classes})"
            )
        if getattr(model.layers[-1], "activation", None) is tf.keras.activations.softmax:
            raise BadInputError(f"{what} ends in a softmax; backends expect logits", fix="drop the last activation")

    def loss(self) -> Any:
        """Return the mean cross-entropy; labels are indices of classes, [batch, 1]."""
        import tensorflow as tf

        return tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def row_losses(self, labels: Any, outputs: Any) -> Any:
        """Return the cross-entropy of each row."""
        import tensorflow as tf

        classes = tf.reshape(labels, [-1])
        return tf.keras.losses.sparse_categorical_crossentropy(classes, outputs, from_logits=True)

    def curves(self) -> list[Any]:
        """Return accuracy."""
        import tensorflow as tf

        return [tf.keras.metrics.SparseCategoricalAccuracy("accuracy")]

    def served(self, outputs: Any, *, label: Label) -> dict[str, Any]:
        """Return `probabilities`, float32, [batch, classes], and `class`, the most likely value, string, [batch, 1]."""
        import tensorflow as tf

        probabilities = tf.nn.softmax(outputs)
        values = tf.constant(list(label.label_domain), tf.string)
        return {self.prediction: probabilities, "class": tf.gather(values, tf.argmax(outputs, axis=1))[:, tf.newaxis]}

    def metric_settings(self, label: Label | None) -> Mapping[str, float]:
        """Return no argument: the metrics are of probabilities."""
        del label
        return {}


MULTICLASS = Multiclass()
