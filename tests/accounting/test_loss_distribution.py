"""PLD is an upper bound in float64 too; where it says nothing, RDP stands, and no search ends on it."""

from __future__ import annotations

import math

import dp_accounting as d
import pytest
from mpmath import mp, mpf, ncdf  # type: ignore[import-untyped]

from privacy_pipeline.accounting import accountants
from privacy_pipeline.accounting.accountants import epsilon_of, guarantee
from privacy_pipeline.accounting.calibration import calibrate_noise_multiplier
from privacy_pipeline.accounting.events import poisson_gaussian
from privacy_pipeline.accounting.loss_distribution import compositions, loss_distribution
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.renyi import ORDERS, AccountingError, epsilon_from_rdp, rdp_vector

ZERO_OUT = Relation.ZERO_OUT
MANY = 300_000


def gaussians(noise: float, count: int) -> d.DpEvent:
    """Composed one by one on the grid, though the exact answer is known."""
    return poisson_gaussian(sampling_probability=1.0, noise_multiplier=noise, steps=count)


def exact_delta(epsilon: float, mu: float) -> mpf:
    """Balle and Wang 2018, theorem 8, with 60 digits."""
    with mp.workdps(60):
        return ncdf(mpf(mu) / 2 - mpf(epsilon) / mu) - mp.exp(mpf(epsilon)) * ncdf(-mpf(mu) / 2 - mpf(epsilon) / mu)


CASES = [(100.0, 100_000), (50.0, 1000), (30.0, 5000), (300.0, MANY)]


@pytest.mark.parametrize(("noise", "count"), CASES)
def test_epsilon_is_never_below_the_exact_one(noise: float, count: int) -> None:
    for part in (1.0, 0.3):
        pld = loss_distribution(gaussians(noise, count), ZERO_OUT, interval=1e-3 * part)
        for exponent in range(5, 16):
            delta = 10.0**-exponent
            epsilon = pld.epsilon(delta)
            assert math.isinf(epsilon) or exact_delta(epsilon, math.sqrt(count) / noise) <= delta


def test_the_librarys_own_epsilon_is_below_it_where_delta_is_small() -> None:
    pld = loss_distribution(gaussians(30.0, 5000), ZERO_OUT, interval=1e-4)
    below = [
        delta
        for delta in (1e-11, 1e-12, 1e-13, 1e-14)
        if exact_delta(pld.accountant.get_epsilon(delta), math.sqrt(5000) / 30.0) > delta * 1.01
    ]
    assert below, "float64 is exact enough by now: the error may be made smaller"
    assert not any(pld.resolves(delta) for delta in below)


def test_the_error_is_next_to_nothing_at_usual_deltas() -> None:
    pld = loss_distribution(poisson_gaussian(sampling_probability=0.01, noise_multiplier=1.0, steps=1000), ZERO_OUT)
    assert pld.epsilon(1e-5) == pytest.approx(pld.accountant.get_epsilon(1e-5), rel=1e-6)


@pytest.mark.parametrize(
    ("probability", "noise", "steps", "delta", "why"),
    [
        (0.01, 1.0, 1000, 1e-13, "is not resolved"),
        (0.01, 1.0, 1000, 1e-30, "is not resolved"),
        (1.0, 100.0, 100_000, 1e-13, "is not resolved"),
        (1.0, 300.0, MANY, 1e-10, "is not resolved"),
    ],
)
def test_where_delta_is_not_resolved_rdp_stands(
    probability: float, noise: float, steps: int, delta: float, why: str
) -> None:
    event = poisson_gaussian(sampling_probability=probability, noise_multiplier=noise, steps=steps)
    stated = guarantee(event, delta=delta, relation=ZERO_OUT)
    assert stated.accountant == "rdp" and stated.epsilon == stated.epsilon_rdp
    assert stated.epsilon == epsilon_from_rdp(ORDERS, rdp_vector(event, ZERO_OUT)[1], delta)
    assert "RDP stands: delta" in stated.accountant_version and why in stated.accountant_version
    assert stated.epsilon_pld is None and stated.curve[0][0] > stated.curve[-1][0]


def test_where_the_grid_is_too_coarse_rdp_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    event = poisson_gaussian(sampling_probability=1e-4, noise_multiplier=10, steps=10**6)
    monkeypatch.setattr(accountants, "_MOST_BUCKETS", 0)  # never narrowed
    stated = guarantee(event, delta=1e-5, relation=ZERO_OUT)
    assert stated.epsilon_rdp is not None and stated.epsilon_pld is not None
    assert stated.epsilon == stated.epsilon_rdp < stated.epsilon_pld
    assert "RDP stands: the grid of PLD (0.0001) is too coarse" in stated.accountant_version


def test_too_many_compositions_are_left_to_rdp() -> None:
    event = poisson_gaussian(sampling_probability=1e-6, noise_multiplier=1.0, steps=10**9)
    stated = guarantee(event, delta=1e-5, relation=ZERO_OUT)
    assert stated.accountant == "rdp" and "takes too long" in (stated.epsilon_missing or "")


@pytest.mark.slow
def test_valid_plans_are_not_refused() -> None:
    for probability, noise, steps, delta in [
        (0.1, 1.0, 1_000_000, 1e-5),
        (0.5, 20.0, 100_000, 1e-13),
        (1.0, 5.0, 100_000, 1e-7),
    ]:
        event = poisson_gaussian(sampling_probability=probability, noise_multiplier=noise, steps=steps)
        by_rdp = epsilon_from_rdp(ORDERS, rdp_vector(event, ZERO_OUT)[1], delta)
        assert 0 < epsilon_of(event, delta=delta, relation=ZERO_OUT) <= by_rdp * 1.001


@pytest.mark.slow_but("1e-13")
@pytest.mark.parametrize("delta", [1e-5, 1e-13, 1e-20])
def test_a_search_ends_whatever_its_probes_meet(delta: float) -> None:
    def event(noise: float) -> d.DpEvent:
        return poisson_gaussian(sampling_probability=0.02, noise_multiplier=noise, steps=20_000)

    noise = calibrate_noise_multiplier(event, target_epsilon=3.0, delta=delta, relation=ZERO_OUT, tolerance=0.01)
    assert epsilon_of(event(noise), delta=delta, relation=ZERO_OUT) <= 3.0
    assert epsilon_of(event(noise * 0.97), delta=delta, relation=ZERO_OUT) > 2.9


@pytest.mark.parametrize("noise", [1e-3, 1e-6, 1e-12, 1e-100, 1e-300])
def test_next_to_no_noise_is_infinite_and_never_an_overflow(noise: float) -> None:
    event = poisson_gaussian(sampling_probability=0.5, noise_multiplier=noise, steps=1000)
    assert math.isinf(epsilon_of(event, delta=1e-5, relation=ZERO_OUT))
    with pytest.raises(AccountingError, match="epsilon is infinite"):
        guarantee(event, delta=1e-5, relation=ZERO_OUT)


def test_compositions_are_counted_through_nested_events() -> None:
    one = d.GaussianDpEvent(1.0)
    nested = d.ComposedDpEvent([d.SelfComposedDpEvent(d.ComposedDpEvent([one, one]), 5), one, d.NoOpDpEvent()])
    assert compositions(nested) == 12
    assert compositions(d.ComposedDpEvent([])) == 1
