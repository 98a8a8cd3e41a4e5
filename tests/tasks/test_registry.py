"""Tasks are objects of a registry, which the parts of a pipeline ask."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.tasks import registry
from privacy_pipeline.tasks.binary import BINARY
from privacy_pipeline.tasks.multiclass import MULTICLASS
from privacy_pipeline.tasks.regression import REGRESSION

LABELS = np.array([[0.0], [1.0], [1.0], [0.0]], np.float32)
OUTPUTS = np.array([[-2.0], [3.0], [-0.5], [0.25]], np.float32)
SEVERAL = np.array([[-2.0, 3.0, 0.5], [3.0, 2.0, 1.0], [-0.5, 0.5, 9.0], [0.25, 0.25, 0.0]], np.float32)
CLASSES: Any = SimpleNamespace(label_domain=("a", 'b "x", y', "ü"), label_range=None)
NUMBER: Any = SimpleNamespace(label_domain=(), label_range=(-100, 300.0))
EACH = pytest.mark.parametrize(
    ("task", "outputs", "label"),
    [(BINARY, OUTPUTS, CLASSES), (MULTICLASS, SEVERAL, CLASSES), (REGRESSION, OUTPUTS, NUMBER)],
    ids=["binary", "multiclass", "regression"],
)


def test_metrics_of_one_name_are_better_on_one_side() -> None:
    """Thresholds are read before the task is known."""
    for task in registry.REGISTRY.values():
        for metric in task.metrics:
            assert metric.larger_is_better == registry.metrics()[metric.name].larger_is_better


def test_each_task_is_tried() -> None:
    assert set(registry.REGISTRY) == {"binary", "multiclass", "regression"}


@EACH
def test_the_loss_is_the_mean_of_the_row_losses(task: registry.Task, outputs: Any, label: Any) -> None:
    del label
    rows = task.row_losses(LABELS, outputs).numpy()
    assert rows.shape == (4,)
    assert float(task.loss()(LABELS, outputs)) == pytest.approx(rows.mean(), rel=1e-6)


@EACH
def test_what_is_evaluated_is_served_and_names_are_distinct(task: registry.Task, outputs: Any, label: Any) -> None:
    assert outputs.shape[1] == task.width(3)
    assert task.prediction in task.served(tf.constant(outputs), label=label)
    assert len({metric.name for metric in task.metrics}) == len(task.metrics)
    assert set(task.scores) <= {metric.name for metric in task.metrics}


def test_several_classes_are_served_as_probabilities_and_as_the_likeliest_value() -> None:
    served = MULTICLASS.served(tf.constant(SEVERAL), label=CLASSES)
    np.testing.assert_allclose(served["probabilities"].numpy().sum(axis=1), 1.0, rtol=1e-6)
    likeliest = [value.decode() for value in served["class"].numpy().ravel()]
    assert likeliest == ['b "x", y', "a", "ü", "a"] and served["class"].shape == (4, 1)


def test_a_number_is_served_in_its_units_and_within_its_range() -> None:
    (found,) = REGRESSION.served(tf.constant([[-2.0], [0.0], [0.25], [1.0], [3.0]]), label=NUMBER).values()
    np.testing.assert_allclose(found, [[-100], [-100], [0], [300], [300]])
    assert found.dtype == tf.float32
    assert REGRESSION.metric_settings(NUMBER) == {"minimum": -100.0, "maximum": 300.0}
    for label in (None, CLASSES):
        with pytest.raises(ValueError, match="has a public range"):
            REGRESSION.metric_settings(label)


def test_a_task_is_inferred_from_what_its_label_is() -> None:
    assert registry.name_of("yes") == registry.name_of(0) == "binary"
    assert registry.name_of(None) == "multiclass"
    assert registry.name_of(None, is_number=True) == "regression"


def test_lists_of_runs_show_few_metrics_and_some_of_each_task() -> None:
    assert registry.headlines() == ("accuracy", "auc", "macro_f1", "mae", "r2")


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


def test_a_model_that_does_not_end_in_one_number_is_refused() -> None:
    model = tf.keras.Sequential([tf.keras.layers.Input((3,)), tf.keras.layers.Dense(2)])
    with pytest.raises(BadInputError, match=r"output shape \(None, 2\), not \(None, 1\)"):
        REGRESSION.require_model(model, what="model: build_model of 'mine'", classes=0)


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
