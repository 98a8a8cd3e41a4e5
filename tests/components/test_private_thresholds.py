"""Thresholds apply to what is served: with private predictions, to theirs as well."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow_model_analysis as tfma
from sklearn.metrics import average_precision_score, log_loss

from privacy_pipeline.components.slices import read_baseline
from privacy_pipeline.config.models.encrypted import EncryptedPolicy
from privacy_pipeline.config.models.evaluation import Threshold
from privacy_pipeline.encrypted.evaluation import evaluation, measured
from privacy_pipeline.encrypted.model.fixed_point import Proof
from privacy_pipeline.encrypted.model.threat_model import simulated
from privacy_pipeline.pipelines.graph.after_training import _private_thresholds
from tests.components.test_gate_decision import encrypted_evaluation
from tests.reports.records import make_config

PROOF = Proof(logit_error=1e-7, largest={}, widest=("d", 2.0))
TRUTH = np.array([1.0, 0.0] * 200)[:, None]


def compared(plain: Any, private: Any, truth: Any = TRUTH) -> measured.EncryptedEvaluation:
    return evaluation.compare(
        plain=plain, private=private, labels=truth, model="m", proof=PROOF, batches=[], threat_model=simulated()
    )


def missed(found: Any, baseline: dict[str, float] | None = None, **thresholds: dict[str, float]) -> list[str]:
    bounds = {name: Threshold(**bound) for name, bound in thresholds.items()}
    return measured.missed_thresholds(found, thresholds=bounds, baseline=baseline or {})


def test_a_network_that_rounds_to_one_logit_is_refused_twice() -> None:
    plain = np.where(TRUTH > 0, 2.0**-18, 2.0**-19)  # all are positive: no decision is flipped
    found = compared(plain, np.zeros_like(plain) + 2.0**-18)
    assert (found.auc_plain, found.auc_encrypted, found.agreement) == (1.0, 0.5, 1.0)
    assert missed(found, auc={"min": 0.8}) == ["auc of the private predictions is 0.5000, below the threshold 0.8000"]
    reasons = measured.reasons(found, announced="simulated", policy=EncryptedPolicy())
    assert len(reasons) == 1 and "all plain logits lie within 1.907e-06" in reasons[0]


@pytest.mark.parametrize(
    ("given", "thresholds", "reason"),
    [
        ({"accuracy_encrypted": 0.79}, {"accuracy": {"min": 0.8}}, "accuracy of the private predictions is 0.7900"),
        ({"precision_encrypted": 0.5}, {"precision": {"min": 0.6}}, "precision of the private predictions is 0.5000"),
        ({"recall_encrypted": 0.5}, {"recall": {"min": 0.6}}, "recall of the private predictions is 0.5000"),
        ({"auc_encrypted": None, "undefined": {"auc": "one class"}}, {"auc": {"min": 0.1}}, "not defined .*one class"),
        ({}, {"recall": {"min": 0.1}}, "does not have it; run again"),
        ({"auc_encrypted": 0.9}, {"auc": {"max_decrease": 0.01}}, "0.0200 below the last blessed model"),
        ({"auc_encrypted": float("nan")}, {"auc": {"min": 0.1}}, "is nan, below"),
        ({"log_loss_encrypted": 0.7}, {"log_loss": {"max": 0.6}}, "log_loss .* is 0.7000, above the threshold 0.6000"),
        (
            {"ece_encrypted": 0.2},
            {"ece": {"max_increase": 0.05}},
            "is 0.1000 above the last blessed model; at most 0.05",
        ),
        ({"ece_encrypted": float("nan")}, {"ece": {"max": 0.1}}, "is nan, above"),
        ({}, {"log_loss": {"max": 0.6}}, "does not have it; run again"),
    ],
)
def test_each_metric_of_the_private_predictions_is_held_against_its_threshold(
    given: dict[str, Any], thresholds: dict[str, dict[str, float]], reason: str
) -> None:
    (found,) = missed(encrypted_evaluation(**given), {"auc": 0.92, "ece": 0.1}, **thresholds)
    assert re.search(reason, found)


def test_what_meets_its_thresholds_and_what_is_served_plainly_misses_none() -> None:
    good = encrypted_evaluation(accuracy_encrypted=0.8, auc_encrypted=0.915)
    assert missed(good, {"auc": 0.92}, accuracy={"min": 0.8}, auc={"min": 0.9, "max_decrease": 0.01}) == []
    assert missed(good, None, auc={"max_decrease": 0.0}) == []  # the first model has no baseline
    assert missed(None, accuracy={"min": 1.0}) == []


def test_metrics_of_private_predictions_are_counted() -> None:
    plain = np.array([[1.0], [1.0], [-1.0], [-1.0]])
    private, truth = np.array([[1.0], [2.0], [3.0], [-1.0]]), np.array([[1.0], [0.0], [1.0], [1.0]])
    found = compared(plain, private, truth)
    assert (found.precision_encrypted, found.recall_encrypted) == pytest.approx((2 / 3, 2 / 3))
    nothing = compared(-plain[:2], -plain[:2], np.zeros((2, 1)))
    assert (nothing.precision_encrypted, nothing.recall_encrypted, nothing.auc_encrypted) == (None, None, None)
    assert set(nothing.undefined) == {"precision", "recall", "auc", "pr_auc"} and nothing.pr_auc_encrypted is None
    probabilities = 1 / (1 + np.exp(-private.ravel()))
    assert found.log_loss_encrypted == pytest.approx(log_loss(truth.ravel(), probabilities))
    assert found.pr_auc_encrypted == pytest.approx(average_precision_score(truth.ravel(), private.ravel()))
    assert 0.3 < found.ece_encrypted < 0.5
    assert np.isfinite(compared(plain * 1e4, private * 1e4, truth).log_loss_encrypted)


@pytest.mark.parametrize(
    ("error", "spread", "refused"),
    [(1e-3, 1.0, False), (2e-9, 1e-7, True), (9e-10, 1e-7, False), (1e-9, 0.0, False), (1e-9, None, True)],
)
def test_the_error_is_held_against_how_far_the_logits_lie_apart(
    error: float, spread: float | None, refused: bool
) -> None:
    found = encrypted_evaluation(largest_logit_error=error, logit_spread=spread)
    assert bool(measured.reasons(found, announced="simulated", policy=EncryptedPolicy())) is refused


def test_the_baseline_s_metrics_follow_from_the_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, Any] = {
        "auc": {"doubleValue": 0.9},
        "auc_diff": {"doubleValue": -0.05},
        "precision": {"doubleValue": 0.7},
        "example_count": {"doubleValue": 20.0},
    }
    result = SimpleNamespace(slicing_metrics=[((("sex", "F"),), {}), ((), {"": {"": values}})])
    monkeypatch.setattr(tfma, "load_eval_result", lambda folder: result)
    assert read_baseline("folder") == pytest.approx({"auc": 0.95})


def test_the_gate_gets_the_thresholds_of_what_is_served_privately() -> None:
    private = make_config("encrypted", training={"encrypted": {"simulate": True}})
    assert _private_thresholds(private) == {
        name: {"min": bound.min, "max_decrease": bound.max_decrease, "max": None, "max_increase": None}
        for name, bound in private.evaluation.thresholds.items()
    }
    assert _private_thresholds(private) and _private_thresholds(make_config("plain")) == {}
