"""Golden values, an exact formula, and properties that any sound accountant has."""

from __future__ import annotations

import math
from typing import Any

import pytest
from dp_accounting import dp_event as d
from dp_accounting.rdp import rdp_privacy_accountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import log_ndtr

from privacy_pipeline.accounting import accountants, renyi
from privacy_pipeline.accounting.accountants import epsilon_of, guarantee
from privacy_pipeline.accounting.calibration import calibrate_noise_multiplier
from privacy_pipeline.accounting.events import gaussian_passes, poisson_gaussian
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.renyi import ORDERS, AccountingError, epsilon_from_rdp, rdp_vector
from privacy_pipeline.errors import BadInputError

BOTH = pytest.mark.parametrize("relation", list(Relation))
DELTA = 1e-5
noises = st.floats(min_value=0.5, max_value=50)
passes = st.integers(min_value=1, max_value=50)
deltas = st.floats(min_value=1e-9, max_value=1e-3)


def exact_gaussian_epsilon(mu: float, delta: float) -> float:
    """Balle and Wang 2018 (Improving the Gaussian Mechanism), theorem 8, for sensitivity over sigma = mu."""

    def excess(epsilon: float) -> float:
        first = math.exp(log_ndtr(mu / 2 - epsilon / mu))
        return first - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)) - delta

    return 0.0 if excess(0.0) <= 0 else float(brentq(excess, 0.0, mu**2 + 100 * mu, xtol=1e-10))


def rdp_epsilon(event: d.DpEvent, delta: float) -> float:
    return epsilon_from_rdp(*rdp_vector(event, Relation.ZERO_OUT), delta)


@BOTH
def test_golden_poisson(relation: Relation) -> None:
    event = poisson_gaussian(sampling_probability=256 / 60000, noise_multiplier=1.3, steps=3515)
    stated = guarantee(event, delta=DELTA, relation=relation)
    assert stated.epsilon_pld == pytest.approx(0.8645, abs=5e-5)
    assert stated.epsilon_rdp == pytest.approx(0.9544, abs=5e-5)
    assert (stated.epsilon, stated.accountant, stated.epsilon_missing) == (stated.epsilon_pld, "pld", None)


@BOTH
def test_golden_full_passes_without_amplification(relation: Relation) -> None:
    poisson = poisson_gaussian(sampling_probability=256 / 60000, noise_multiplier=1.3, steps=3515)
    event = gaussian_passes(noise_multiplier=1.3, epochs=15)
    stated = guarantee(event, delta=DELTA, relation=relation, poisson_event=poisson)
    assert stated.epsilon_rdp == pytest.approx(17.648, abs=5e-3)
    assert stated.epsilon == pytest.approx(exact_gaussian_epsilon(math.sqrt(15) / 1.3, DELTA), rel=1e-3)
    assert stated.epsilon_if_poisson_sampled == pytest.approx(0.8645, abs=5e-5)


@given(noise=noises, epochs=passes, delta=deltas)
@settings(max_examples=20, deadline=None)
def test_pld_of_gaussian_passes_is_the_exact_epsilon(noise: float, epochs: int, delta: float) -> None:
    exact = exact_gaussian_epsilon(math.sqrt(epochs) / noise, delta)
    stated = epsilon_of(gaussian_passes(noise_multiplier=noise, epochs=epochs), delta=delta, relation=Relation.ZERO_OUT)
    assert stated == pytest.approx(exact, rel=1e-3, abs=1e-4)
    assert stated >= exact - 1e-6


@given(noise=noises, epochs=passes, delta=deltas)
@settings(deadline=None)
def test_rdp_conversion_equals_the_library_and_bounds_the_exact_epsilon(
    noise: float, epochs: int, delta: float
) -> None:
    orders, values = rdp_vector(gaussian_passes(noise_multiplier=noise, epochs=epochs), Relation.ZERO_OUT)
    mine = epsilon_from_rdp(orders, values, delta)
    theirs = rdp_privacy_accountant.compute_epsilon(list(orders), list(values), delta)[0]
    assert mine == pytest.approx(theirs, rel=1e-12, abs=1e-12)
    assert mine >= exact_gaussian_epsilon(math.sqrt(epochs) / noise, delta) - 1e-9


@given(values=st.lists(st.floats(min_value=0, max_value=100), min_size=len(ORDERS), max_size=len(ORDERS)), delta=deltas)
@settings(deadline=None)
def test_rdp_conversion_equals_the_library_on_any_vector(values: list[float], delta: float) -> None:
    theirs = rdp_privacy_accountant.compute_epsilon(list(ORDERS), values, delta)[0]
    assert epsilon_from_rdp(ORDERS, values, delta) == pytest.approx(theirs, rel=1e-12, abs=1e-12)


@given(noise=noises, epochs=passes, delta=deltas, factor=st.floats(min_value=1.0, max_value=3.0))
@settings(deadline=None)
def test_monotone_in_passes_noise_and_delta(noise: float, epochs: int, delta: float, factor: float) -> None:
    here = rdp_epsilon(gaussian_passes(noise_multiplier=noise, epochs=epochs), delta)
    assert rdp_epsilon(gaussian_passes(noise_multiplier=noise, epochs=epochs + 1), delta) >= here
    assert rdp_epsilon(gaussian_passes(noise_multiplier=noise * factor, epochs=epochs), delta) <= here
    assert rdp_epsilon(gaussian_passes(noise_multiplier=noise, epochs=epochs), delta * factor) <= here


@pytest.mark.slow
@given(
    probability=st.floats(min_value=1e-4, max_value=0.5),
    noise=st.floats(min_value=0.6, max_value=20),
    steps=st.integers(min_value=1, max_value=5000),
)
@settings(max_examples=15, deadline=None)
def test_poisson_is_tighter_by_pld_and_never_above_full_participation(
    probability: float, noise: float, steps: int
) -> None:
    event = poisson_gaussian(sampling_probability=probability, noise_multiplier=noise, steps=steps)
    by_rdp = rdp_epsilon(event, DELTA)
    assert by_rdp <= rdp_epsilon(gaussian_passes(noise_multiplier=noise, epochs=steps), DELTA) + 1e-9
    if by_rdp < 10:
        by_pld = epsilon_of(event, delta=DELTA, relation=Relation.ZERO_OUT)
        assert by_pld <= by_rdp * (1 + accountants.CROSS_CHECK_TOLERANCE)


@given(st.lists(st.tuples(noises, passes), min_size=1, max_size=5))
@settings(deadline=None)
def test_composition_is_never_above_simple_addition(runs: list[tuple[float, int]]) -> None:
    parts = [gaussian_passes(noise_multiplier=noise, epochs=epochs) for noise, epochs in runs]
    simple = sum(rdp_epsilon(part, DELTA) for part in parts)
    assert rdp_epsilon(d.ComposedDpEvent(parts), DELTA) <= simple + 1e-9


def test_orders_where_the_series_fails_are_bounded_by_a_higher_order() -> None:
    orders, values = rdp_vector(
        poisson_gaussian(sampling_probability=0.5, noise_multiplier=50, steps=50), Relation.ZERO_OUT
    )
    assert all(math.isfinite(value) for value in values)
    assert list(values) == sorted(values)
    assert values[orders.index(1.5)] <= values[orders.index(2.0)] < 0.01
    assert values[orders.index(2.1)] == values[orders.index(3.0)] < 0.01


@BOTH
def test_an_event_without_pld_is_stated_by_rdp(relation: Relation) -> None:
    tuned = d.RepeatAndSelectDpEvent(gaussian_passes(noise_multiplier=5.0, epochs=1), 10, 1)
    stated = guarantee(tuned, delta=DELTA, relation=relation)
    assert stated.epsilon_pld is None
    assert stated.epsilon_missing is not None and "does not support" in stated.epsilon_missing
    assert (stated.epsilon, stated.accountant) == (stated.epsilon_rdp, "rdp")
    assert len(stated.curve) == 20


def test_an_event_without_rdp_is_stated_by_pld() -> None:
    stated = guarantee(d.DiscreteLaplaceDpEvent(0.5, 1), delta=DELTA, relation=Relation.ZERO_OUT)
    assert stated.epsilon_rdp is None
    assert stated.epsilon == stated.epsilon_pld == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    "event",
    [
        d.NonPrivateDpEvent(),
        d.UnsupportedDpEvent(),
        d.ComposedDpEvent([d.GaussianDpEvent(1.0), d.NonPrivateDpEvent()]),
        d.SampledWithoutReplacementDpEvent(100, 10, d.GaussianDpEvent(1.0)),
    ],
)
def test_no_guarantee_no_epsilon(event: d.DpEvent) -> None:
    with pytest.raises(AccountingError):
        guarantee(event, delta=DELTA, relation=Relation.ZERO_OUT)


@pytest.mark.slow
def test_where_nothing_explains_a_disagreement_the_larger_bound_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = renyi.rdp_vector

    def too_small(event: d.DpEvent, relation: Relation) -> Any:
        orders, values = honest(event, relation)
        return orders, tuple(value / 4 for value in values)

    event = gaussian_passes(noise_multiplier=10.0, epochs=2)
    before = guarantee(event, delta=DELTA, relation=Relation.ZERO_OUT)
    monkeypatch.setattr(accountants, "rdp_vector", too_small)
    stated = guarantee(event, delta=DELTA, relation=Relation.ZERO_OUT)
    assert stated.epsilon_rdp is not None and before.epsilon_rdp is not None
    assert stated.epsilon_rdp < before.epsilon < before.epsilon_rdp
    assert stated.epsilon == pytest.approx(before.epsilon, rel=1e-3) and stated.accountant == "pld"
    assert "neither its grid nor float64 explains it" in stated.accountant_version
    assert epsilon_of(event, delta=DELTA, relation=Relation.ZERO_OUT) == stated.epsilon


def test_the_interval_is_narrowed_where_rounding_adds_over_many_steps() -> None:
    event = poisson_gaussian(sampling_probability=1e-4, noise_multiplier=10, steps=10**6)
    stated = guarantee(event, delta=DELTA, relation=Relation.ZERO_OUT)
    assert "interval 1e-05" in stated.accountant_version
    assert stated.epsilon_rdp is not None and stated.epsilon <= stated.epsilon_rdp


def test_curve_falls_and_passes_through_the_headline() -> None:
    stated = guarantee(gaussian_passes(noise_multiplier=4.0, epochs=5), delta=1e-9, relation=Relation.ZERO_OUT)
    epsilons = [epsilon for epsilon, _ in stated.curve]
    assert len(epsilons) == 20 and epsilons == sorted(epsilons, reverse=True)
    assert stated.curve[0][0] == pytest.approx(stated.epsilon)
    assert stated.curve[0][1] == pytest.approx(1e-9)


def test_bad_vectors_and_deltas_are_refused() -> None:
    for delta in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(BadInputError):
            epsilon_from_rdp((2.0,), (1.0,), delta)
    with pytest.raises(BadInputError):
        epsilon_from_rdp((2.0, 3.0), (1.0,), DELTA)
    for value in (-1e-3, math.nan):
        with pytest.raises(AccountingError):
            epsilon_from_rdp((2.0,), (value,), DELTA)


@pytest.mark.slow_but("0.1-1", "1.0-10", "20.0-10")
@pytest.mark.parametrize(("target", "epochs"), [(0.1, 1), (1.0, 10), (3.0, 50), (20.0, 10)])
def test_calibration_meets_the_target_and_not_by_much(target: float, epochs: int) -> None:
    def make(noise: float) -> d.DpEvent:
        return gaussian_passes(noise_multiplier=noise, epochs=epochs)

    noise = calibrate_noise_multiplier(make, target_epsilon=target, delta=DELTA, relation=Relation.ZERO_OUT)
    assert epsilon_of(make(noise), delta=DELTA, relation=Relation.ZERO_OUT) <= target
    assert exact_gaussian_epsilon(math.sqrt(epochs) / (noise - 2e-3), DELTA) > target


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan, math.inf, 1e12])
def test_calibration_refuses_what_makes_no_sense(target: float) -> None:
    with pytest.raises(BadInputError):
        calibrate_noise_multiplier(
            lambda noise: gaussian_passes(noise_multiplier=noise, epochs=1),
            target_epsilon=target,
            delta=DELTA,
            relation=Relation.ZERO_OUT,
        )


def test_calibration_gives_up_where_noise_does_not_help() -> None:
    with pytest.raises(BadInputError, match="no noise multiplier"):
        calibrate_noise_multiplier(
            lambda noise: d.ComposedDpEvent([d.GaussianDpEvent(noise), d.GaussianDpEvent(0.5)]),
            target_epsilon=1.0,
            delta=DELTA,
            relation=Relation.ZERO_OUT,
        )


def truncated(noise: float, *, steps: int = 1_200, cap: int = 400) -> d.DpEvent:
    """Batches of 250 of 10,000 units, cut at `cap`."""
    return d.SelfComposedDpEvent(d.TruncatedSubsampledGaussianDpEvent(10_000, 0.025, cap, noise), steps)


@BOTH
@pytest.mark.parametrize("noise", [1e-300, 1e-3, 0.05, 0.3])
def test_truncated_samples_with_little_noise_take_no_memory_and_no_time(noise: float, relation: Relation) -> None:
    """On the fixed grid of PLD the second took 38 GB, the third minutes."""
    event = truncated(noise)
    bound = accountants.bound_of(event, delta=DELTA, relation=relation)
    plain = d.SelfComposedDpEvent(d.PoissonSampledDpEvent(0.025, d.GaussianDpEvent(noise)), 1_200)
    without = accountants.bound_of(plain, delta=DELTA, relation=relation).epsilon
    assert bound.epsilon >= without * (1 - 1e-3)
    assert math.isinf(bound.epsilon) == (noise < 0.01)
    if math.isinf(bound.epsilon):
        with pytest.raises(AccountingError, match="epsilon is infinite"):
            guarantee(event, delta=DELTA, relation=relation)


@pytest.mark.parametrize(
    ("delta", "steps", "cap"), [(1e-12, 1_200, 10_000), (1e-13, 1_200, 2_000), (1e-11, 40_000, 2_000)]
)
def test_truncated_samples_at_a_delta_below_float64_are_bound_by_rdp(delta: float, steps: int, cap: int) -> None:
    event = truncated(5.0, steps=steps, cap=cap)
    bound = accountants.bound_of(event, delta=delta, relation=Relation.ADD_OR_REMOVE_ONE)
    assert bound.accountant == "rdp" and bound.why is not None and "not resolved by PLD" in bound.why
    plain = d.SelfComposedDpEvent(d.PoissonSampledDpEvent(0.025, d.GaussianDpEvent(5.0)), steps)
    without = epsilon_from_rdp(*rdp_vector(plain, Relation.ADD_OR_REMOVE_ONE), delta)
    assert bound.epsilon == pytest.approx(without, rel=0.02) and bound.epsilon >= without
    found = guarantee(event, delta=delta, relation=Relation.ADD_OR_REMOVE_ONE)
    assert found.epsilon == bound.epsilon
