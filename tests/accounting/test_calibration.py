"""The search for the least noise: never above the target, as good as bisection, and with few looks."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_pipeline.accounting.accountants import epsilon_of
from privacy_pipeline.accounting.calibration import least_noise, least_noise_by_curve
from privacy_pipeline.accounting.events import poisson_gaussian
from privacy_pipeline.accounting.plan import Relation

TOLERANCE = 1e-3

CURVES: dict[str, Callable[[float, float], float]] = {
    "power": lambda noise, scale: scale / noise**1.5,
    "two parts": lambda noise, scale: scale / noise + scale / noise**2,
    "infinite below": lambda noise, scale: math.inf if noise < scale else scale / noise,
    "steps": lambda noise, scale: math.ceil(scale / noise * 4) / 4,
    "zero beyond": lambda noise, scale: max(0.0, scale / noise - 1),
    "never below 5": lambda noise, scale: 5 + scale / noise,
    "flat, then steep": lambda noise, scale: scale * math.exp(-noise),
}


def bisected(meets: Callable[[float], bool]) -> float | None:
    low, high = 2.0**-7, 2.0**20
    if not meets(high):
        return None
    if meets(2.0**-6):
        return 2.0**-6
    while high - low > TOLERANCE:
        middle = (low + high) / 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return high


@pytest.mark.parametrize("name", sorted(CURVES))
@given(scale=st.floats(0.05, 50), target=st.floats(0.05, 20))
def test_it_finds_what_bisection_finds(name: str, scale: float, target: float) -> None:
    looked: list[float] = []

    def epsilon(noise: float) -> float:
        looked.append(noise)
        return CURVES[name](noise, scale)

    found = least_noise_by_curve(epsilon, target=target, tolerance=TOLERANCE)
    plain = bisected(lambda noise: CURVES[name](noise, scale) <= target)
    assert least_noise(lambda noise: CURVES[name](noise, scale) <= target, tolerance=TOLERANCE) == pytest.approx(
        plain, abs=2 * TOLERANCE
    )
    assert len(looked) <= 60
    if found is None or plain is None:
        assert found is plain
        return
    assert found in looked and CURVES[name](found, scale) <= target
    assert abs(found - plain) <= 2 * TOLERANCE


@pytest.mark.slow_but("0.5")
@pytest.mark.parametrize("target", [0.5, 3.0, 8.0])
def test_a_slow_accountant_is_asked_at_most_eight_times(target: float) -> None:
    looked: list[float] = []

    def epsilon(noise: float) -> float:
        looked.append(noise)
        event = poisson_gaussian(sampling_probability=0.125, noise_multiplier=noise, steps=240)
        return epsilon_of(event, delta=1e-5, relation=Relation.ZERO_OUT)

    found = least_noise_by_curve(epsilon, target=target, tolerance=TOLERANCE)
    assert found is not None and epsilon(found) <= target < epsilon(found - 2 * TOLERANCE)
    assert len(looked) <= 10  # eight, and the two of this test
