"""Metrics of probabilities, beside scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, log_loss

from privacy_pipeline.tasks import probabilities as of

QUIET = settings(deadline=None, suppress_health_check=list(HealthCheck))
ROWS = st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=1, max_size=40)


@QUIET
@given(ROWS)
def test_they_are_those_of_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    labels, scores = (np.array(values, np.float64) for values in zip(*rows, strict=True))
    cut = np.clip(scores, of.LEAST, 1 - of.LEAST)
    assert of.losses(labels, scores).mean() == pytest.approx(log_loss(labels, cut, labels=[0, 1]), rel=1e-9, abs=1e-12)
    found = of.average_precision(labels > 0.5, scores)
    if labels.any():
        assert found == pytest.approx(average_precision_score(labels, scores))
    else:
        assert found is None


@QUIET
@given(ROWS, st.integers(1, 39))
def test_sums_of_parts_add_up(rows: list[tuple[bool, float]], cut: int) -> None:
    labels, scores = (np.array(values, np.float64) for values in zip(*rows, strict=True))
    whole = of.bin_sums(labels, scores)
    assert whole == pytest.approx(of.bin_sums(labels[:cut], scores[:cut]) + of.bin_sums(labels[cut:], scores[cut:]))
    assert whole[0].sum() == len(rows) and 0 <= of.calibration_error(whole) <= 1


def test_the_calibration_error_by_hand() -> None:
    labels, scores = np.array([1.0, 0.0, 1.0, 1.0]), np.array([0.51, 0.52, 0.99, 1.0])  # two bins of two rows
    assert of.calibration_error(of.bin_sums(labels, scores)) == pytest.approx((0.03 + 0.01) / 4)
    assert of.calibration_error(of.bin_sums(labels, labels)) == 0.0
    assert of.calibration_error(of.bin_sums(labels, 1 - labels)) == 1.0


def test_a_probability_that_was_rounded_to_0_or_1_has_a_finite_loss() -> None:
    worst = of.losses(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert worst == pytest.approx(-np.log(of.LEAST), rel=1e-6)
