"""The threshold attack: its AUC against all pairs, its interval by coverage, and what it makes of leaky losses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from benchmarks import coverage
from privacy_pipeline.dp.attacks.membership import FALSE_POSITIVE_RATES, threshold_attack
from privacy_pipeline.errors import BadInputError

# Few distinct values, so that ties are common; infinities are losses too.
losses = arrays.arrays(np.float64, st.integers(2, 30), elements=st.sampled_from([0.0, 0.1, 0.5, 1.0, 7.0, np.inf]))


@given(members=losses, others=losses)
def test_the_auc_is_that_of_all_pairs(members: np.ndarray, others: np.ndarray) -> None:
    reading = threshold_attack(members, others)
    pairs = (members[:, None] < others) + 0.5 * (members[:, None] == others)
    assert reading.auc == pytest.approx(pairs.mean())
    assert reading.auc_low <= reading.auc <= reading.auc_high


@given(members=losses, others=losses)
def test_no_threshold_with_fewer_false_positives_finds_more(members: np.ndarray, others: np.ndarray) -> None:
    reading = threshold_attack(members, others)
    for rate, found in zip(FALSE_POSITIVE_RATES, reading.true_positive_rates, strict=True):
        limits = [limit for limit in {*others, *members} if np.mean(others < limit) <= rate]
        assert found == pytest.approx(max((np.mean(members < limit) for limit in limits), default=0.0))


def old_interval(members: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Version 0.1.0: by the variance of DeLong, DeLong and Clarke-Pearson."""
    pairs = (members[:, None] < others) + 0.5 * (members[:, None] == others)
    variance = pairs.mean(axis=1).var(ddof=1) / members.size + pairs.mean(axis=0).var(ddof=1) / others.size
    reach = 1.959963984540054 * float(np.sqrt(variance))
    return float(pairs.mean()) - reach, float(pairs.mean()) + reach


def test_the_interval_holds_the_truth_where_that_of_before_did_not() -> None:
    """Members and others that are nearly told apart: often no pair shows that they are not quite."""
    random, tries = np.random.default_rng(5), 300
    truth = 1 - 0.05**2 / 2
    held = before = 0
    for _ in range(tries):
        members, others = random.uniform(0, 1, 20), random.uniform(0.95, 1.95, 30)
        reading, (low, high) = threshold_attack(members, others), old_interval(members, others)
        held += reading.auc_low <= truth <= reading.auc_high
        before += low <= truth <= high
    assert before < 0.6 * tries and held >= 0.91 * tries  # 0.95 less three standard errors


def test_the_grid_of_the_interval() -> None:
    cases = list(coverage.aucs(np.random.default_rng(6), 300, sizes=((2, 2), (5, 50), (60, 90))))
    assert [case for case in cases if case.above_chance(len(cases))] == []


def test_a_model_that_learned_by_heart_is_seen_and_chance_is_not() -> None:
    random = np.random.default_rng(6)
    same = threshold_attack(random.exponential(size=5000), random.exponential(size=5000))
    assert same.auc_low < 0.5 < same.auc_high
    by_heart = threshold_attack(random.exponential(0.01, size=500), random.exponential(size=500))
    assert by_heart.auc_low > 0.9 and by_heart.true_positive_rates[0] > 0.3


@pytest.mark.parametrize("members", [np.array([1.0]), np.array([1.0, np.nan])])
def test_losses_that_say_nothing_are_refused(members: np.ndarray) -> None:
    with pytest.raises(BadInputError, match="slice overall"):
        threshold_attack(members, np.array([1.0, 2.0]))
