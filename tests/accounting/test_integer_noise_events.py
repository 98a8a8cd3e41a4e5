"""Renyi bounds of summed integer noise against divergences that are added up number by number."""

from __future__ import annotations

import itertools
import math
from typing import Any

import dp_accounting as d
import numpy as np
import pytest
from scipy.special import ive, logsumexp

from privacy_pipeline.accounting import events
from privacy_pipeline.accounting.accountants import epsilon_of, guarantee, reason_without_pld
from privacy_pipeline.accounting.integer_noise import (
    DiscreteGaussianSumDpEvent,
    SkellamSumDpEvent,
    discrete_gaussian_divergence,
    skellam_divergence,
)
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.renyi import ORDERS, AccountingError, epsilon_from_rdp, rdp_vector
from privacy_pipeline.accounting.total_variation import TotalVariationDpEvent
from privacy_pipeline.ledger.state.entries import price

_WHOLE = (2, 3, 8, 32, 128)


def log_skellam(variance: float, last: int) -> np.ndarray:
    """Logarithm of the chance of 0 to last, by the continued fraction of I_k / I_(k-1): no underflow."""
    start = last + 400 + int(20 * variance**0.5)
    ratios = np.zeros(start + 2)
    for k in range(start, 0, -1):
        ratios[k] = 1 / (2 * k / variance + ratios[k + 1])
    return np.log(ive(0, variance)) + np.concatenate([[0.0], np.cumsum(np.log(ratios[1 : last + 1]))])


def log_summed_gaussians(sigma2: float, shares: int, last: int) -> np.ndarray:
    """Logarithm of the chance of 0 to last, of a sum of discrete Gaussians: convolved without underflow."""
    numbers = np.arange(-last, last + 1)
    one = -(numbers**2) / (2 * sigma2)
    one = one - logsumexp(one)
    total = one
    for _ in range(shares - 1):
        total = np.array(
            [
                logsumexp(total[max(0, k - last) : min(2 * last, k + last) + 1]
                          + one[::-1][max(0, last - k) : 2 * last + 1 - max(0, k - last)])
                for k in range(2 * last + 1)
            ]
        )  # fmt: skip
    return total[last:]


def divergence(half: np.ndarray, shift: int, order: float) -> float:
    """Renyi divergence of a symmetric distribution and itself moved by a whole number, in the worse direction."""
    whole = np.concatenate([half[:0:-1], half])
    moved, kept = whole[shift:], whole[: whole.size - shift]
    both = (logsumexp(order * a + (1 - order) * b) for a, b in ((moved, kept), (kept, moved)))
    return float(max(both)) / (order - 1)


def test_convolution_of_the_test_itself() -> None:
    found = log_summed_gaussians(1.0, 2, 30)
    numbers = np.arange(-30, 31)
    weights = np.exp(-(numbers**2) / 2)
    weights /= weights.sum()
    np.testing.assert_allclose(np.exp(found)[:10], np.convolve(weights, weights, "same")[30:40], rtol=1e-9)


@pytest.mark.parametrize("variance", [0.3, 3.0, 40.0, 1000.0])
@pytest.mark.parametrize("shift", [1, 2, 5, 20])
def test_skellam_bound_in_one_dimension(variance: float, shift: int) -> None:
    half = log_skellam(variance, int(40 * variance**0.5 + 300 * shift + 500))
    for order in _WHOLE:
        exact = divergence(half, shift, order)
        event = SkellamSumDpEvent(variance / 4, 4, 1, shift**2)
        assert event.l1 == shift
        bound = skellam_divergence(event, order)
        assert exact <= bound * (1 + 1e-9)
        assert skellam_divergence(event, order - 0.5) == bound  # the next whole order
        if variance >= 1000 and order <= 8:
            assert bound <= 1.03 * exact


@pytest.mark.parametrize("vector", [(1, 1, 1, 1), (3, 0, 0, 0), (2, 2, 1, 0), (5, 5, 5, 5)])
def test_skellam_bound_of_vectors_is_above_the_sum_over_numbers(vector: tuple[int, ...]) -> None:
    squared = sum(part**2 for part in vector)
    for variance, order in itertools.product((1.0, 10.0, 300.0), (2, 16)):
        half = log_skellam(variance, int(40 * variance**0.5 + 3000))
        exact = sum(divergence(half, part, order) for part in vector if part)
        assert exact <= skellam_divergence(SkellamSumDpEvent(variance, 1, len(vector), squared), order)


@pytest.mark.parametrize("sigma2", [0.25, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("shares", [1, 2, 5])
def test_discrete_gaussian_bound_in_one_dimension(sigma2: float, shares: int) -> None:
    half = log_summed_gaussians(sigma2, shares, 150)
    for shift, order in itertools.product((1, 2, 4), (1.1, 2.0, 2.5, 8.0)):
        exact = divergence(half, shift, order)
        bound = discrete_gaussian_divergence(DiscreteGaussianSumDpEvent(sigma2, shares, 1, shift**2), order)
        assert exact <= bound * (1 + 1e-9)
        if shares == 1 or sigma2 >= 4:
            assert bound <= 1.03 * exact


def test_below_half_a_step_nothing_is_proven() -> None:
    assert discrete_gaussian_divergence(DiscreteGaussianSumDpEvent(0.2499, 3, 4, 1), 2.0) == math.inf
    with pytest.raises(AccountingError, match="epsilon is infinite"):
        guarantee(DiscreteGaussianSumDpEvent(0.2, 3, 4, 1), delta=1e-5, relation=Relation.ZERO_OUT)


@pytest.mark.parametrize("kind", [SkellamSumDpEvent, DiscreteGaussianSumDpEvent])
def test_on_a_fine_grid_the_bound_is_the_gaussians(kind: Any) -> None:
    """Noise of 2 units around a vector of length 1 unit, at 2^20 steps a unit."""
    step = 2.0**20
    fine = d.SelfComposedDpEvent(kind((2 * step) ** 2 / 50, 50, 4096, int(step) ** 2), 7)
    gaussian = d.SelfComposedDpEvent(d.GaussianDpEvent(2.0), 7)
    whole = [place for place, order in enumerate(ORDERS) if order == int(order)]
    ours, theirs = (rdp_vector(event, Relation.ZERO_OUT)[1] for event in (fine, gaussian))
    np.testing.assert_allclose([ours[i] for i in whole], [theirs[i] for i in whole], rtol=1e-3)
    assert all(left >= right * (1 - 1e-9) for left, right in zip(ours, theirs, strict=True))


def event_of(kind: Any = SkellamSumDpEvent, **changed: Any) -> Any:
    return kind(**{"share_variance": 50.0, "shares": 20, "dimension": 64, "squared_norm": 400, **changed})


@pytest.mark.parametrize("kind", [SkellamSumDpEvent, DiscreteGaussianSumDpEvent])
def test_less_noise_and_longer_vectors_cost_more(kind: Any) -> None:
    def cost(**changed: Any) -> float:
        return epsilon_of(event_of(kind, **changed), delta=1e-5, relation=Relation.ZERO_OUT)

    assert cost(shares=19) > cost() and cost(share_variance=49.0) > cost() and cost(squared_norm=410) > cost()
    assert event_of(dimension=64, squared_norm=400).l1 == 160
    assert event_of(dimension=10**6, squared_norm=400).l1 == 400  # whole numbers: at most 400 of them are not 0


def test_epsilon_is_rdps_alone_and_agrees_with_the_stored_event() -> None:
    one = event_of()
    event = d.ComposedDpEvent([d.SelfComposedDpEvent(one, 3), TotalVariationDpEvent(1e-50)])
    found = guarantee(event, delta=1e-5, relation=Relation.ZERO_OUT)
    by_hand = epsilon_from_rdp(ORDERS, [3 * skellam_divergence(one, order) for order in ORDERS], 1e-5)
    assert found.epsilon == found.epsilon_rdp == pytest.approx(by_hand, rel=1e-9)
    assert found.epsilon_pld is None and found.accountant == "rdp"
    assert found.epsilon_missing is not None and "PLD" in found.epsilon_missing
    stored = events.from_json(events.to_json(event))
    assert stored == event
    assert epsilon_of(stored, delta=1e-5, relation=Relation.ZERO_OUT) == found.epsilon
    charged = price(stored, Relation.ZERO_OUT)
    assert charged.distance == 1e-50
    np.testing.assert_allclose(charged.values, [3 * skellam_divergence(one, order) for order in ORDERS], rtol=1e-12)


def test_it_composes_with_other_mechanisms() -> None:
    both = d.ComposedDpEvent([d.GaussianDpEvent(3.0), d.ComposedDpEvent([event_of(), event_of()])])
    total = rdp_vector(both, Relation.ZERO_OUT)[1]
    alone = rdp_vector(d.GaussianDpEvent(3.0), Relation.ZERO_OUT)[1]
    ours = rdp_vector(event_of(), Relation.ZERO_OUT)[1]
    np.testing.assert_allclose(total, [a + 2 * b for a, b in zip(alone, ours, strict=True)], rtol=1e-12)
    assert reason_without_pld(both, Relation.ZERO_OUT) is not None


@pytest.mark.parametrize("kind", [SkellamSumDpEvent, DiscreteGaussianSumDpEvent])
def test_samples_do_not_amplify_and_other_relations_have_no_bound(kind: Any) -> None:
    sampled = d.PoissonSampledDpEvent(0.1, event_of(kind))
    with pytest.raises(AccountingError, match="cannot account"):
        rdp_vector(sampled, Relation.ZERO_OUT)
    with pytest.raises(AccountingError, match="cannot account"):
        guarantee(sampled, delta=1e-5, relation=Relation.ZERO_OUT)
    with pytest.raises(AccountingError, match="adds no noise"):
        rdp_vector(event_of(kind), Relation.ADD_OR_REMOVE_ONE)
