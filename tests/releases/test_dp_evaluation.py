"""A DP evaluation from rows to the verdict: what is charged, what it says, and what it takes to pass a threshold."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from privacy_pipeline.accounting import events
from privacy_pipeline.accounting.accountants import epsilon_of
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.state.registration import SplitCount
from privacy_pipeline.releases.evaluation import (
    DpEvaluation,
    counted_row,
    evaluated,
    evaluation_release,
    missed_thresholds,
)
from privacy_pipeline.releases.queries import Row
from privacy_pipeline.releases.release import Release
from tests.ledger.conftest import make_registration
from tests.releases.test_release_sensitivity import sums_of

DOMAINS = {"sex": ("F", "M"), "race": ("a", "b", "c")}
ROWS = 4000
REGISTRATION = dataclasses.replace(
    make_registration(), splits={"train": SplitCount(rows=9, units=9), "eval": SplitCount(rows=ROWS, units=ROWS)}
)


def release(epsilon: float = 1.0) -> Release:
    slices = [["sex"], ["sex", "race"]]
    return evaluation_release(slices, registration=REGISTRATION, domains=DOMAINS, epsilon=epsilon, delta=1e-5)


def rows(accuracy: float) -> list[Row]:
    """Half of the labels are 1; a row in five is sliced as a value outside the public domain."""
    rng = np.random.default_rng(5)
    found: list[Row] = []
    for index in range(ROWS):
        label, right = index % 2, rng.random() < accuracy
        values = {"sex": "FM"[index % 3 == 0], "race": "abcxx"[rng.integers(5)]}
        probability = 0.9 if (label == 1) == right else 0.1
        found.append(counted_row(label=label, probability=probability, decision_threshold=0.5, slices=values))
    return found


def evaluation(accuracy: float = 0.9, epsilon: float = 1.0) -> DpEvaluation:
    asked = release(epsilon)
    answers = asked.noised(sums_of(asked, [[row] for row in rows(accuracy)]))
    return evaluated(asked, answers, decision_threshold=0.5, budget="adult/eval/row", ledger_entry=7)


def test_the_eval_units_are_charged_the_epsilon_that_was_asked_for() -> None:
    plan = release().plan
    assert (plan.units, plan.unit, plan.relation) == (ROWS, "row", Relation.ZERO_OUT)
    assert 0.999 < epsilon_of(plan.event, delta=1e-5, relation=plan.relation) <= 1.0
    assert plan.threshold_delta == 0  # all cells are public


def test_the_release_says_what_the_rows_hold() -> None:
    found = evaluation()
    assert DpEvaluation.model_validate_json(found.model_dump_json()) == found
    assert events.from_json(found.event) == release().plan.event
    assert found.epsilon <= 1.0
    assert [part.name for part in found.slices[:3]] == ["overall", "sex=F", "sex=M"]
    assert len(found.slices) == 1 + 2 + 6
    exact = {"overall": ROWS, "sex=F": ROWS * 2 // 3, "sex=F, race=a": ROWS * 2 / 3 / 5}
    for part in found.slices:
        if part.name in exact:
            assert part.examples.value == pytest.approx(exact[part.name], abs=10 * found.noise + 100)
    for metric in ("accuracy", "precision", "recall"):
        estimate = found.overall.metrics[metric]
        assert estimate.value == pytest.approx(0.9, abs=0.05)
        assert estimate.low < estimate.value < estimate.high


def test_rows_without_label_are_counted_nowhere() -> None:
    row = counted_row(label=-1, probability=0.9, decision_threshold=0.5, slices={"sex": "F", "race": "a"})
    assert release().contribution([row]) == {}


def test_only_the_lower_end_of_the_interval_passes_a_threshold() -> None:
    found = evaluation(0.9)
    low, value = found.overall.metrics["accuracy"].low, found.overall.metrics["accuracy"].value
    assert value is not None
    assert missed_thresholds(found, {"accuracy": low - 1e-6}) == []
    (reason,) = missed_thresholds(found, {"accuracy": (low + value) / 2})
    assert "with noise" in reason
    noisier = evaluation(0.9, epsilon=0.005)
    assert missed_thresholds(noisier, {"accuracy": low - 1e-6})


def test_what_cannot_be_evaluated_is_refused() -> None:
    with pytest.raises(BadInputError, match="auc"):
        missed_thresholds(evaluation(), {"auc": 0.5})
    with pytest.raises(BadInputError, match="no public domain"):
        evaluation_release([["town"]], registration=REGISTRATION, domains=DOMAINS, epsilon=1.0, delta=1e-5)
    without = dataclasses.replace(REGISTRATION, splits={"train": SplitCount(rows=9, units=9)})
    with pytest.raises(BudgetRefusedError, match="eval split"):
        evaluation_release([], registration=without, domains={}, epsilon=1.0, delta=1e-5)
