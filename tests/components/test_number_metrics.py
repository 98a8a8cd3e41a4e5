"""Metrics of a number, beside scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, mean_squared_error, median_absolute_error, r2_score

from privacy_pipeline.components.evaluator import number_metrics as of
from privacy_pipeline.tasks.regression import REGRESSION
from tests.components.test_class_metrics import value

LOW, HIGH = -1000.0, 250_000.0
OF_UNITS = {"minimum": LOW, "maximum": HIGH}


def scaled(numbers: Any) -> Any:
    return ((np.asarray(numbers) - LOW) / (HIGH - LOW)).astype(np.float32)


def metric(name: str) -> Any:
    (found,) = [metric for metric in REGRESSION.metrics if metric.name == name]
    return getattr(of, found.tfma_class)(**OF_UNITS)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("parts", [1, 4])
def test_they_are_those_of_scikit_learn_in_the_labels_units(seed: int, parts: int) -> None:
    random = np.random.default_rng(seed)
    truth = random.uniform(LOW, HIGH, 41)
    said = truth + random.normal(0, 20_000, 41)
    for name, peer in (
        ("mae", mean_absolute_error(truth, said)),
        ("rmse", mean_squared_error(truth, said) ** 0.5),
        ("r2", r2_score(truth, said)),
        ("median_absolute_error", median_absolute_error(truth, said)),
    ):
        found = value(metric(name), scaled(truth), said.astype(np.float32).reshape(-1, 1), parts=parts)
        assert found == pytest.approx(peer, rel=1e-5), name


def test_what_is_not_defined_is_not_a_number() -> None:
    same = scaled([7.7] * 9)  # equal labels, whose sum of squares is rounded
    assert np.isnan(value(metric("r2"), same, np.full((9, 1), 5.0)))
    assert np.isfinite(value(metric("rmse"), same, np.full((9, 1), 5.0)))
    for one in REGRESSION.metrics:
        assert np.isnan(value(metric(one.name), [], np.zeros((0, 1)), parts=1))


def test_a_model_worse_than_the_mean_has_a_coefficient_below_0() -> None:
    truth = [0.0, 1000.0, 2000.0]
    assert value(metric("r2"), scaled(truth), np.array([[2000.0], [1000.0], [0.0]])) == pytest.approx(-3.0, rel=1e-3)
