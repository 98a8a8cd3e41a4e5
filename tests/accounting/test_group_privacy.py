"""Group privacy: the lemma's own numbers, and bounds that lie above what is exactly true for k units."""

from __future__ import annotations

import math

import pytest
from dp_accounting import NeighboringRelation
from dp_accounting import dp_event as d
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_pipeline.accounting.events import gaussian_passes, poisson_gaussian
from privacy_pipeline.accounting.group_privacy import group_epsilon, group_pair
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.ledger.state.entries import price


@pytest.mark.parametrize(
    ("epsilon", "delta", "size", "expected"),
    [
        (1.0, 1e-6, 1, (1.0, 1e-6)),
        (1.0, 1e-6, 2, (2.0, 3.718281828e-6)),  # 1 + e
        (0.5, 1e-8, 3, (1.5, 5.367003099e-8)),  # 1 + sqrt(e) + e
        (0.0, 1e-6, 4, (0.0, 4e-6)),
        (2.0, 0.0, 5, (10.0, 0.0)),
        (3.0, 1e-3, 4, None),  # delta 1 + e^3 + e^6 + e^9 times: above 1
        (400.0, 1e-300, 2, None),
        (math.inf, 1e-6, 2, None),
    ],
)
def test_the_lemma(epsilon: float, delta: float, size: int, expected: tuple[float, float] | None) -> None:
    found = group_pair(epsilon, delta, size=size)
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-9))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_no_less_than_a_gaussian_of_k_times_the_sensitivity(size: int) -> None:
    noise = 8.0
    one = price(gaussian_passes(noise_multiplier=noise, epochs=1), Relation.ZERO_OUT)
    exact = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL, 1e-4).compose(d.GaussianDpEvent(noise / size))
    bound = group_epsilon(one.epsilon, 1e-5, size=size)
    assert float(exact.get_epsilon(1e-5)) <= bound < 4 * float(exact.get_epsilon(1e-5))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_no_less_than_the_mixture_of_gaussians_that_k_sampled_units_make(size: int) -> None:
    """Ganesh 2024, "Tight Group-Level DP Guarantees for DP-SGD with Sampling via Mixture of Gaussians Mechanisms"."""
    rate, noise, steps = 0.05, 3.0, 20
    one = price(poisson_gaussian(sampling_probability=rate, noise_multiplier=noise, steps=steps), Relation.ZERO_OUT)
    chances = [math.comb(size, j) * rate**j * (1 - rate) ** (size - j) for j in range(size + 1)]
    mixture = d.MixtureOfGaussiansDpEvent(noise, tuple(float(j) for j in range(size + 1)), tuple(chances))
    exact = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-4)
    exact.compose(d.SelfComposedDpEvent(mixture, steps))
    bound = group_epsilon(one.epsilon, 1e-5, size=size)
    assert 0 < float(exact.get_epsilon(1e-5)) <= bound < math.inf


@settings(deadline=None)
@given(noise=st.floats(1.0, 50.0), size=st.integers(1, 10), delta=st.floats(1e-9, 1e-3))
def test_what_is_found_ends_at_the_delta_that_was_asked(noise: float, size: int, delta: float) -> None:
    one = price(gaussian_passes(noise_multiplier=noise, epochs=1), Relation.ZERO_OUT)
    bound = group_epsilon(one.epsilon, delta, size=size)
    if math.isfinite(bound):
        assert bound >= size * one.epsilon(delta) or bound == pytest.approx(size * one.epsilon(delta))
    if size == 1:
        assert bound == one.epsilon(delta)


def test_a_curve_without_a_bound_has_none_for_a_group() -> None:
    assert math.isinf(group_epsilon(lambda _: math.inf, 1e-5, size=2))
    assert math.isinf(group_epsilon(lambda _: 90.0, 1e-5, size=10))
