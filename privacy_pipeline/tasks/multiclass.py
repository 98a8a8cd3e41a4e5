"""Several classes: the model gives a logit for each value of the label's public domain, in the order of the schema."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.tasks.task import FOR_TWO_CLASSES, Label, Metric, Score

_metric = partial(Metric, tfma_module="privacy_pipeline.components.evaluator.class_metrics")


class Multiclass:
    """Cross-entropy of the label's class; the model serves the softmax and the most likely class."""

    name = "multiclass"
    is_number = False
    has_positive_class = False
    output = "logits"
    metrics = (
        _metric(name="accuracy", tfma_class="ClassAccuracy", tfma_name="class_accuracy", headline=True),
        _metric(name="top_3_accuracy", tfma_class="TopAccuracy", tfma_name="top_3_accuracy"),
        _metric(name="macro_f1", tfma_class="MacroF1", tfma_name="macro_f1", headline=True),
        _metric(name="log_loss", tfma_class="ClassLogLoss", tfma_name="class_log_loss", larger_is_better=False),
        _metric(
            name="ece",
            tfma_class="TopLabelCalibrationError",
            tfma_name="top_label_calibration_error",
            larger_is_better=False,
        ),
    )
    counts = ("ExampleCount",)
    prediction = "probabilities"
    scores: Mapping[str, Score] = {}
    cannot: Mapping[str, str] = {
        **FOR_TWO_CLASSES,
        "training.encrypted": "train with another backend: private predictions have one logit",
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
