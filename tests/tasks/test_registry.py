"""Tasks are objects of a registry, which the parts of a pipeline ask."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.tasks import registry
from privacy_pipeline.tasks.binary import BINARY
from privacy_pipeline.tasks.multiclass import MULTICLASS

LABELS = np.array([[0.0], [1.0], [1.0], [0.0]], np.float32)
OUTPUTS = np.array([[-2.0], [3.0], [-0.5], [0.25]], np.float32)
SEVERAL = np.array([[-2.0, 3.0, 0.5], [3.0, 2.0, 1.0], [-0.5, 0.5, 9.0], [0.25, 0.25, 0.0]], np.float32)
EACH = pytest.mark.parametrize(
    ("task", "outputs"), [(BINARY, OUTPUTS), (MULTICLASS, SEVERAL)], ids=["binary", "multiclass"]
)


def test_metrics_of_one_name_are_better_on_one_side() -> None:
    """Thresholds are read before the task is known."""
    for task in registry.REGISTRY.values():
        for metric in task.metrics:
            assert metric.larger_is_better == registry.metrics()[metric.name].larger_is_better


def test_each_task_is_tried() -> None:
    assert set(registry.REGISTRY) == {"binary", "multiclass"}


@EACH
def test_the_loss_is_the_mean_of_the_row_losses(task: registry.Task, outputs: Any) -> None:
    rows = task.row_losses(LABELS, outputs).numpy()
    assert rows.shape == (4,)
    assert float(task.loss()(LABELS, outputs)) == pytest.approx(rows.mean(), rel=1e-6)


@EACH
def test_what_is_evaluated_is_served_and_names_are_distinct(task: registry.Task, outputs: Any) -> None:
    assert outputs.shape[1] == task.width(3)
    assert task.prediction in task.served(tf.constant(outputs), domain=("a", "b", "c"))
    assert len({metric.name for metric in task.metrics}) == len(task.metrics)
    assert set(task.scores) <= {metric.name for metric in task.metrics}


def test_several_classes_are_served_as_probabilities_and_as_the_likeliest_value() -> None:
    served = MULTICLASS.served(tf.constant(SEVERAL), domain=("a", 'b "x", y', "ü"))
    np.testing.assert_allclose(served["probabilities"].numpy().sum(axis=1), 1.0, rtol=1e-6)
    likeliest = [value.decode() for value in served["class"].numpy().ravel()]
    assert likeliest == ['b "x", y', "a", "ü", "a"] and served["class"].shape == (4, 1)


def test_scores_of_two_classes() -> None:
    scores = BINARY.scores
    found = {}
    for name, score in scores.items():
        measure = score.measure()
        measure.update_state(LABELS, score.of(tf.constant(OUTPUTS)))
        found[name] = float(measure.result())
    assert found["accuracy"] == 0.5
    assert found["auc"] == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (tf.keras.layers.Dense(2), r"output shape \(None, 2\), not \(None, 1\)"),
        (tf.keras.layers.Dense(1, "sigmoid"), "ends in a sigmoid"),
    ],
)
def test_a_model_that_does_not_end_in_one_logit_is_refused(last: tf.keras.layers.Layer, message: str) -> None:
    model = tf.keras.Sequential([tf.keras.layers.Input((3,)), last])
    with pytest.raises(BadInputError, match=message):
        BINARY.require_model(model, what="model: build_model of 'mine'", classes=2)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (tf.keras.layers.Dense(1), r"output shape \(None, 1\), not \(None, 3\)"),
        (tf.keras.layers.Dense(3, "softmax"), "ends in a softmax"),
    ],
)
def test_a_model_that_does_not_end_in_a_logit_a_class_is_refused(last: tf.keras.layers.Layer, message: str) -> None:
    model = tf.keras.Sequential([tf.keras.layers.Input((3,)), last])
    with pytest.raises(BadInputError, match=message):
        MULTICLASS.require_model(model, what="model: build_model of 'mine'", classes=3)


def test_the_registry_imports_no_tensorflow() -> None:
    script = "import sys, privacy_pipeline.tasks.registry; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
