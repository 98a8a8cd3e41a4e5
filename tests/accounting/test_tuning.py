"""What a tuning costs, and the secret number of its trials."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from dp_accounting import NeighboringRelation, SelfComposedDpEvent
from dp_accounting.dp_event import RepeatAndSelectDpEvent
from dp_accounting.rdp import RdpAccountant
from scipy import stats

from privacy_pipeline.accounting import accountants, events, renyi
from privacy_pipeline.accounting.events import poisson_gaussian
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.tuning import Distribution, draw_number, repeat_and_select, trial_event, whole_event
from privacy_pipeline.config.models.tuning import TuningSection
from privacy_pipeline.errors import BadInputError

# TensorFlow Privacy's tutorial row: 60,000 units, batches of 256, noise 1.3, 15 epochs.
ONE = poisson_gaussian(sampling_probability=256 / 60_000, noise_multiplier=1.3, steps=15 * 60_000 // 256)
SPACE = {"learning_rate": [0.01, 0.1]}


def section(**changes: object) -> TuningSection:
    select = {"method": "repeat_and_select", "distribution": "geometric", "minutes": 5}
    values = {**select, "trials": 10, "space": SPACE, **changes}
    return TuningSection.model_validate({name: value for name, value in values.items() if value is not None})


@pytest.mark.parametrize(("distribution", "golden"), [("geometric", 2.04), ("poisson", 2.17)])
def test_the_best_of_about_ten_costs_what_is_known(distribution: Distribution, golden: float) -> None:
    event = repeat_and_select(ONE, mean=10, distribution=distribution)
    stated = accountants.guarantee(event, delta=1e-5, relation=Relation.ZERO_OUT)
    assert stated.epsilon == pytest.approx(golden, abs=0.005)
    assert stated.accountant == "rdp" and stated.epsilon_pld is None and "PLD" in str(stated.epsilon_missing)
    alone = accountants.epsilon_of(ONE, delta=1e-5, relation=Relation.ZERO_OUT)
    ten = accountants.epsilon_of(SelfComposedDpEvent(ONE, 10), delta=1e-5, relation=Relation.ZERO_OUT)
    assert alone < stated.epsilon < ten


@pytest.mark.parametrize(("distribution", "shape"), [("geometric", 1.0), ("poisson", math.inf)])
def test_the_shape_is_that_of_dp_accounting(distribution: Distribution, shape: float) -> None:
    """dp_accounting alone, on the event as it is stored."""
    event = repeat_and_select(ONE, mean=10, distribution=distribution)
    assert isinstance(event, RepeatAndSelectDpEvent) and (event.mean, event.shape) == (10.0, shape)
    assert events.from_json(events.to_json(event)) == event
    by_hand = RdpAccountant(renyi.ORDERS, NeighboringRelation.REPLACE_SPECIAL).compose(event).get_epsilon(1e-5)
    ours = accountants.epsilon_of(event, delta=1e-5, relation=Relation.ZERO_OUT)
    assert ours == pytest.approx(by_hand, rel=1e-6)


def test_each_trial_is_composed_where_all_are_paid_for() -> None:
    event = whole_event(section(method="each", distribution=None, minutes=None, trials=3), ONE)
    assert event == SelfComposedDpEvent(ONE, 3)
    stated = accountants.guarantee(event, delta=1e-5, relation=Relation.ZERO_OUT)
    assert stated.accountant == "pld" and stated.epsilon_pld is not None
    assert trial_event(event) == ONE == trial_event(whole_event(section(), ONE))


def test_only_a_tuning_has_trials() -> None:
    with pytest.raises(ValueError, match="not the event of a tuning"):
        trial_event(events.gaussian_passes(noise_multiplier=1.0, epochs=1).event)


@pytest.mark.parametrize("mean", [0, 0.5, math.inf, math.nan])
def test_a_mean_that_the_accountant_does_not_know_is_refused(mean: float) -> None:
    with pytest.raises(BadInputError, match="1 or more"):
        repeat_and_select(ONE, mean=mean, distribution="poisson")


def p_value(draw: Callable[[], int], *, mean: int, distribution: Distribution, draws: int = 20_000) -> float:
    """Chi-squared test of drawn numbers against scipy's distribution; bins of at least 20 expected draws."""
    law = stats.poisson(mean) if distribution == "poisson" else stats.geom(1 / mean)
    found = Counter(draw() for _ in range(draws))
    expected, observed, bulk, seen = [], [], 0.0, 0
    for number in range(0, 40 * mean):
        bulk, seen = bulk + draws * law.pmf(number), seen + found[number]
        if bulk >= 20:
            expected.append(bulk)
            observed.append(seen)
            bulk, seen = 0.0, 0
    expected[-1] += draws - sum(expected)
    observed[-1] += draws - sum(observed)
    return float(stats.chisquare(observed, np.array(expected) * sum(observed) / sum(expected)).pvalue)


@pytest.mark.slow_but("2-geometric")
@pytest.mark.parametrize("distribution", ["poisson", "geometric"])
@pytest.mark.parametrize("mean", [2, 10])
def test_the_number_of_trials_follows_its_distribution(distribution: Distribution, mean: int) -> None:
    """A sound generator fails one time in a million; wrong ones, below, never pass."""

    def drawn() -> int:
        return draw_number(mean=mean, distribution=distribution)

    assert p_value(drawn, mean=mean, distribution=distribution) > 1e-6
    other: Distribution = "geometric" if distribution == "poisson" else "poisson"
    twins: dict[str, Callable[[], int]] = {
        "a fixed number": lambda: mean,
        "one too many": lambda: drawn() + 1,
        "never none": lambda: drawn() or 1 if distribution == "poisson" else max(2, drawn()),
        "the other distribution": lambda: draw_number(mean=mean, distribution=other),
        "another mean": lambda: draw_number(mean=mean + 1, distribution=distribution),
    }
    for name, twin in twins.items():
        if name == "never none" and (distribution, mean) == ("poisson", 10):
            continue  # 0 has a chance of 1 in 22,000 there: no test of 20,000 draws sees it
        assert p_value(twin, mean=mean, distribution=distribution) < 1e-6, name


@pytest.mark.parametrize(("mean", "distribution"), [(0, "geometric"), (701, "poisson")])
def test_numbers_that_cannot_be_drawn_are_refused(mean: int, distribution: Distribution) -> None:
    with pytest.raises(BadInputError, match="cannot be drawn"):
        draw_number(mean=mean, distribution=distribution)
