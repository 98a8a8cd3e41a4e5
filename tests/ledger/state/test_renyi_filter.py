"""The filter's rule: sound against a fixed order, and nothing lost where runs are alike."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_pipeline.accounting.events import gaussian_passes, poisson_gaussian
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.renyi import ORDERS, epsilon_from_rdp, rdp_vector
from privacy_pipeline.ledger.state import renyi_filter

ZERO = (0.0,) * len(ORDERS)
DELTA = 1e-5
noises = st.floats(min_value=1.0, max_value=50)
caps = st.floats(min_value=0.3, max_value=20)


def gaussian(noise: float) -> tuple[float, ...]:
    return rdp_vector(gaussian_passes(noise_multiplier=noise, epochs=1), Relation.ZERO_OUT)[1]


def fits(order: float, values: tuple[float, ...], cap: float) -> bool:
    return renyi_filter.filter_epsilon(ORDERS, values, order=order, delta=DELTA) <= cap


@given(noise=noises, cap=caps)
@settings(deadline=None)
def test_a_first_run_fits_exactly_if_its_epsilon_is_within_the_cap(noise: float, cap: float) -> None:
    cost = gaussian(noise)
    order = renyi_filter.choose_order(ORDERS, ZERO, cost, epsilon=cap, delta=DELTA)
    assert fits(order, cost, cap) == (epsilon_from_rdp(ORDERS, cost, DELTA) <= cap)


@given(runs=st.lists(noises, min_size=1, max_size=8), cap=caps)
@settings(deadline=None)
def test_gaussian_runs_lose_nothing_against_the_best_order(runs: list[float], cap: float) -> None:
    costs = [gaussian(noise) for noise in runs]
    order = renyi_filter.choose_order(ORDERS, ZERO, costs[0], epsilon=cap, delta=DELTA)
    together = renyi_filter.total(costs, length=len(ORDERS))
    assert fits(order, together, cap) == (epsilon_from_rdp(ORDERS, together, DELTA) <= cap)


@pytest.mark.slow
@given(
    first=noises,
    later=st.lists(st.tuples(st.floats(0.001, 0.2), noises), max_size=4),
    cap=caps,
)
@settings(deadline=None, max_examples=50)
def test_what_the_filter_grants_is_within_the_cap_as_a_fixed_set_too(
    first: float, later: list[tuple[float, float]], cap: float
) -> None:
    spent = gaussian(first)
    order = renyi_filter.choose_order(ORDERS, ZERO, spent, epsilon=cap, delta=DELTA)
    for probability, noise in later:
        event = poisson_gaussian(sampling_probability=probability, noise_multiplier=noise, steps=100)
        spent = renyi_filter.total((spent, rdp_vector(event, Relation.ZERO_OUT)[1]), length=len(ORDERS))
        if fits(order, spent, cap):
            assert epsilon_from_rdp(ORDERS, spent, DELTA) <= cap


@given(noise=noises, cap=caps)
@settings(deadline=None)
def test_runs_that_fit_is_the_last_number_that_fits(noise: float, cap: float) -> None:
    cost = gaussian(noise)
    order = renyi_filter.choose_order(ORDERS, ZERO, cost, epsilon=cap, delta=DELTA)
    at = ORDERS.index(order)
    room = renyi_filter.allowance(order, epsilon=cap, delta=DELTA)
    number = renyi_filter.runs_that_fit(0.0, cost[at], room=room)
    assert number * cost[at] <= max(0.0, room) * (1 + 1e-12)
    assert (number + 1) * cost[at] > room * (1 - 1e-12)


def test_edges() -> None:
    assert renyi_filter.total([], length=3) == (0.0, 0.0, 0.0)
    assert renyi_filter.runs_that_fit(0.0, 0.0, room=1.0) == renyi_filter.MOST_RUNS
    assert renyi_filter.runs_that_fit(2.0, 0.0, room=1.0) == 0
    endless = (math.inf,) * len(ORDERS)
    order = renyi_filter.choose_order(ORDERS, ZERO, endless, epsilon=3.0, delta=DELTA)
    assert renyi_filter.filter_epsilon(ORDERS, endless, order=order, delta=DELTA) == math.inf
    assert renyi_filter.allowance(1024.0, epsilon=1e-9, delta=DELTA) == pytest.approx(-0.00351, abs=1e-3)
