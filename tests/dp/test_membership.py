"""The threshold attack: its AUC against all pairs, its interval by coverage, and what it makes of leaky losses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from privacy_pipeline.dp.membership import FALSE_POSITIVE_RATES, threshold_attack
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


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    truth = 0.7602499389065233  # of two normal distributions one standard deviation apart: Phi(1 / sqrt 2)
    hit = 0
    for _ in range(1000):
        reading = threshold_attack(random.normal(size=60), random.normal(1.0, size=90))
        hit += reading.auc_low <= truth <= reading.auc_high
    assert 925 <= hit <= 975
    narrow = sum(
        abs(threshold_attack(random.normal(size=60), random.normal(1.0, size=90)).auc - truth) < 0.04
        for _ in range(300)
    )
    assert narrow < 0.925 * 300  # a narrower interval would fail


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
