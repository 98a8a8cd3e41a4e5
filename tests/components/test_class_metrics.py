"""Metrics of several classes, beside scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss, top_k_accuracy_score
from tensorflow_model_analysis.metrics import metric_types

from privacy_pipeline.components.evaluator import class_metrics as of
from privacy_pipeline.components.evaluator import probability_metrics as of_two
from privacy_pipeline.tasks.multiclass import MULTICLASS
from privacy_pipeline.tasks.probabilities import bin_sums, losses

CLASSES = 6


def value(metric: metric_types.Metric, labels: Any, probabilities: Any, *, parts: int = 3) -> float:
    """As Beam computes it: sums of parts, which are added up."""
    (computation,) = metric.computations()
    combiner = computation.combiner
    sums = []
    for places in np.array_split(np.arange(len(labels)), parts):
        one = combiner.create_accumulator()
        for place in places:
            element = metric_types.StandardMetricInputs(
                labels=np.array([labels[place]]), predictions=np.array(probabilities[place]), example_weights=None
            )
            one = combiner.add_input(one, element)
        sums.append(one)
    (found,) = combiner.extract_output(combiner.merge_accumulators(sums)).values()
    return float(found)


@pytest.fixture(scope="module", params=range(3))
def rows(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    random = np.random.default_rng(request.param)
    probabilities = random.dirichlet(np.full(CLASSES, 0.7), 80).astype(np.float32)
    labels = np.array([random.choice(CLASSES - 1, p=p[:-1] / p[:-1].sum()) for p in probabilities.astype(float)])
    return labels, probabilities  # the last class is never the label, and sometimes predicted


def test_they_are_those_of_scikit_learn(rows: tuple[Any, Any]) -> None:
    labels, probabilities = rows
    said, all_ = probabilities.argmax(axis=1), list(range(CLASSES))
    assert value(of.ClassAccuracy(), labels, probabilities) == pytest.approx(accuracy_score(labels, said))
    expected = top_k_accuracy_score(labels, probabilities, k=3, labels=all_)
    assert value(of.TopAccuracy(), labels, probabilities) == pytest.approx(expected)
    assert value(of.MacroF1(), labels, probabilities) == pytest.approx(f1_score(labels, said, average="macro"))
    exact = probabilities.astype(np.float64)
    found = value(of.ClassLogLoss(), labels, probabilities)
    assert found == pytest.approx(log_loss(labels, exact / exact.sum(axis=1, keepdims=True), labels=all_), rel=1e-4)


def test_a_row_adds_what_the_sums_over_arrays_add() -> None:
    random = np.random.default_rng(3)
    probabilities = np.concatenate([random.random(200), [0.0, 1.0, 1 / 15, 1e-9]])
    labels = random.integers(0, 2, len(probabilities)).astype(float)
    loss, bins = of_two.no_losses(), of_two.no_bins()
    for label, probability in zip(labels.tolist(), probabilities.tolist(), strict=True):
        of_two.add_loss(loss, label, probability)
        of_two.add_to_bin(bins, label, probability)
    assert loss == pytest.approx([len(labels), losses(labels, probabilities).sum()])
    np.testing.assert_allclose(bins, bin_sums(labels, probabilities))


def test_the_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.2, 0.3, 0.5]], np.float32)
    found = value(of.TopLabelCalibrationError(), [0, 1, 2], probabilities)
    assert found == pytest.approx((abs(1 - 1.8) + abs(1 - 0.5)) / 3, rel=1e-6)


def test_a_probability_of_0_has_a_finite_loss_and_no_row_has_no_metric() -> None:
    certain = np.array([[1.0, 0.0]], np.float32)
    assert 10 < value(of.ClassLogLoss(), [1], certain, parts=1) < 20
    for metric in MULTICLASS.metrics:
        assert np.isnan(value(getattr(of, metric.tfma_class)(), [], certain, parts=1))


def test_the_names_of_results_are_those_of_the_task() -> None:
    for metric in MULTICLASS.metrics:
        (computation,) = getattr(of, metric.tfma_class)().computations()
        assert [key.name for key in computation.keys] == [metric.tfma_name]
