"""The noise is discrete Gaussian noise of the stated scale, and no other; thresholds hide what one unit brings in."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.releases import noise
from privacy_pipeline.releases.queries import Vocabulary
from privacy_pipeline.releases.release import plan_release

SCALE, DRAWS = 7.5, 20_000
_FALSE_ALARM = 1e-6


def accepts(values: list[int], *, scale: float) -> bool:
    """Chi-square test of the variance of whole numbers; from scale 1 on a discrete Gaussian's is scale^2 to 1e-7."""
    low, high = chi2.ppf([_FALSE_ALARM / 2, 1 - _FALSE_ALARM / 2], len(values))
    centred = abs(sum(values)) <= 5 * scale * math.sqrt(len(values))
    return bool(low <= sum(value**2 for value in values) / scale**2 <= high) and centred


def test_the_noise_has_the_scale_that_is_stated_and_no_other() -> None:
    values, rho = noise.noised([0] * DRAWS, scale=SCALE, sensitivity_squared=1)
    assert accepts(values, scale=SCALE)
    assert rho == pytest.approx(1 / (2 * SCALE**2))
    weaker, _ = noise.noised([0] * DRAWS, scale=0.9 * SCALE, sensitivity_squared=1)
    assert not accepts(weaker, scale=SCALE)
    assert not accepts([0] * DRAWS, scale=SCALE)
    assert not accepts([value + 3 for value in values], scale=SCALE)


def test_the_noise_is_whole_numbers_with_the_gaussian_weights() -> None:
    values, _ = noise.noised([10] * DRAWS, scale=1.0, sensitivity_squared=1)
    weights = {x: math.exp(-(x**2) / 2) for x in range(-20, 21)}
    for x in (-1, 0, 1, 2):
        share = weights[x] / sum(weights.values())
        found = sum(value == 10 + x for value in values)
        assert abs(found - share * DRAWS) < 5 * math.sqrt(DRAWS * share)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_no_noise_is_no_release(scale: float) -> None:
    with pytest.raises(ValueError, match="positive scale"):
        noise.noised([5], scale=scale, sensitivity_squared=1)


def test_sums_that_would_wrap_are_clamped() -> None:
    values, _ = noise.noised([10**30, -(10**30)], scale=1.0, sensitivity_squared=1)
    assert values[0] > 2**61
    assert values[1] < -(2**61)


@given(st.integers(1, 2**60), st.floats(1e-9, 1e3))
def test_the_scale_is_never_too_small_for_rho(sensitivity_squared: int, rho: float) -> None:
    scale = noise.scale_for(sensitivity_squared=sensitivity_squared, rho=rho)
    exact = noise.rho_of(sensitivity_squared=sensitivity_squared, scale=scale)
    assert exact <= Fraction(rho)
    assert noise.rounded_up(exact) >= exact
    assert float(exact) == pytest.approx(rho)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.2])
@pytest.mark.parametrize("threshold", [1, 2, 5, 20])
def test_the_tail_bound_holds(scale: float, threshold: int) -> None:
    weights = {x: math.exp(-(x**2) / (2 * scale**2)) for x in range(-200, 201)}
    exact = sum(weight for x, weight in weights.items() if x >= threshold) / sum(weights.values())
    assert exact <= noise.chance_above(threshold, scale=scale)


@settings(deadline=None)  # the first example imports SciPy
@given(st.floats(1e-15, 0.5), st.integers(1, 50), st.floats(0.1, 1e4))
def test_the_threshold_is_the_least_that_pays_for_itself(distance: float, bound: int, scale: float) -> None:
    threshold = noise.threshold_for(distance=distance, bound=bound, scale=scale)
    assert bound * noise.chance_above(threshold - 1, scale=scale) <= distance
    if threshold > 2:
        assert bound * noise.chance_above(threshold - 2, scale=scale) > distance


def test_a_value_of_one_unit_is_never_released_more_often_than_the_distance_says() -> None:
    scale, distance, bound = 2.0, 0.01, 3
    threshold = noise.threshold_for(distance=distance, bound=bound, scale=scale)
    trials = DRAWS // bound
    values, _ = noise.noised([1] * (trials * bound), scale=scale, sensitivity_squared=1)

    def leaks(limit: int) -> int:
        return sum(max(values[i : i + bound]) >= limit for i in range(0, len(values), bound))

    most = trials * distance + 5 * math.sqrt(trials * distance)
    assert leaks(threshold) <= most
    assert leaks(threshold - 4) > most  # a threshold that forgets the noise's tail is found out


def test_a_vocabulary_holds_the_common_values_and_hides_the_rare_ones() -> None:
    release = plan_release(
        [Vocabulary(name="words", column="word")],
        kind="test",
        unit="person",
        contribution_bound=2,
        relation=Relation.ZERO_OUT,
        units=2000,
        epsilon=1.0,
        delta=1e-5,
    )
    answer = release.noised({(0, "common"): 1500, (0, "rare"): 1})["words"]
    assert set(answer.values) == {"common"}
    assert answer.threshold is not None
    assert answer.threshold > 5 * answer.scale
    assert release.plan.threshold_delta < 1e-5 / 1000
