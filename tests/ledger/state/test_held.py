"""What counts against a cap: the number by which the filter grants and refuses."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_pipeline.accounting import truncation
from privacy_pipeline.accounting.events import poisson_gaussian
from privacy_pipeline.accounting.plan import Sampler
from privacy_pipeline.accounting.renyi import ORDERS
from privacy_pipeline.errors import BudgetRefusedError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state import renyi_filter
from privacy_pipeline.ledger.state.entries import Cost, price, together
from privacy_pipeline.ledger.state.held import against_cap, enforced_epsilon, filter_delta, used_part
from tests.ledger.conftest import make_plan
from tests.ledger.test_ledger import run, spend

CAP, DELTA = 3.0, 1e-5


def gaussian(rho: float, distance: float = 0.0) -> Cost:
    return Cost(values=tuple(order * rho for order in ORDERS), distance=distance)


def test_what_is_held_is_what_decides(ledger: Ledger) -> None:
    """Runs are granted as long as what would be held fits, and what is left is the cap less what is held."""
    granted = 0
    while True:
        try:
            run(ledger, make_plan(noise=4.0), run_id=f"run-{granted}")
        except BudgetRefusedError:
            break
        granted += 1
    assert granted > 2
    (status,) = ledger.status("adult")
    order, vectors = status.filter_order, ledger.entries("adult")
    assert order is not None and len(vectors) == granted
    assert status.spent_epsilon < status.enforced_epsilon <= status.cap_epsilon and not status.passed
    assert status.remaining_epsilon == status.cap_epsilon - status.enforced_epsilon
    allowance = renyi_filter.allowance(order, epsilon=CAP, delta=DELTA * (1 - truncation.SHARE))
    one = status.used * allowance / granted
    assert status.used <= 1 < status.used * (granted + 1) / granted
    assert status.enforced_epsilon == pytest.approx(CAP - allowance + one * granted, rel=1e-9)


def test_the_best_order_says_less_than_what_is_held(ledger: Ledger) -> None:
    """The first run fixes the order, later ones of another kind have their best one elsewhere."""
    run(ledger, make_plan(noise=40.0), run_id="small")
    run(ledger, make_plan(noise=2.5), run_id="large")
    (status,) = ledger.status("adult")
    assert status.filter_order is not None
    assert status.enforced_epsilon > 1.02 * status.spent_epsilon


def test_nothing_spent_holds_nothing_and_a_small_run_uses_a_small_part(ledger: Ledger) -> None:
    (fresh,) = ledger.status("adult")
    assert (fresh.enforced_epsilon, fresh.used, fresh.remaining_epsilon, fresh.passed) == (0.0, 0.0, CAP, False)
    run(ledger, make_plan(noise=500.0))
    (status,) = ledger.status("adult")
    assert 0 < status.used < 0.01 and status.enforced_epsilon > 0.1  # the order's own part of epsilon


@pytest.mark.parametrize("noises", [(4.0,) * 20, (40.0, 2.5, 2.5, 2.5), (2.0, 1.0, 30.0, 500.0)])
def test_a_forecast_shows_what_the_filter_holds(ledger: Ledger, noises: tuple[float, ...]) -> None:
    """Before, after and what remains are those of `budget status`, and a run fits just where they say so."""
    said = []
    for number, noise in enumerate(noises):
        plan, (before,) = make_plan(noise=noise), ledger.status("adult")
        forecast = ledger.forecast(plan, dataset="adult", span=None, split="train")
        assert (forecast.epsilon_before, forecast.remaining) == (before.enforced_epsilon, before.remaining_epsilon)
        assert forecast.fits == (forecast.epsilon_after <= CAP)
        said.append(forecast.fits)
        if forecast.fits:
            run(ledger, plan, run_id=f"run-{number}")
            assert ledger.status("adult")[0].enforced_epsilon == forecast.epsilon_after
    assert {True, False} == set(said)


def test_a_run_that_the_best_order_would_let_pass_is_shown_above_the_cap(ledger: Ledger) -> None:
    event = poisson_gaussian(sampling_probability=0.01, noise_multiplier=0.9, steps=10)
    first = dataclasses.replace(make_plan(), sampler=Sampler.POISSON, event=event)  # at its best at a low order
    run(ledger, first)
    for noise in range(300, 100, -1):
        large = make_plan(noise=noise / 100)
        forecast = ledger.forecast(large, dataset="adult", span=None, split="train")
        if not forecast.fits:
            break
    both = together(price(plan.event, plan.relation) for plan in (first, large))
    assert forecast.epsilon_run < both.epsilon(DELTA) < CAP < forecast.epsilon_after


@given(cap=st.floats(0.01, 50.0), held=st.floats(0.0, 60.0))
def test_the_words_never_contradict_the_verdict(cap: float, held: float) -> None:
    for one in (held, cap, math.nextafter(cap, math.inf), math.nextafter(cap, 0.0)):
        left, right = map(float, against_cap(one, cap).split(" of "))
        assert (left <= right) == (one <= cap)
        assert right <= cap + 1e-9 and abs(left - one) < 0.0021
    assert against_cap(3.9, 10.0) == "3.900 of 10.000" and "no finite" in against_cap(math.inf, cap)


def test_a_lowered_cap_is_passed(ledger: Ledger) -> None:
    run(ledger, make_plan(noise=2.0))
    ledger.set_cap("adult", epsilon=0.5, delta=DELTA)
    (status,) = ledger.status("adult")
    assert status.filter_order is not None and status.passed and status.used > 1 and status.remaining_epsilon == 0.0
    with pytest.raises(BudgetRefusedError), spend(ledger, make_plan(noise=1000.0), run_id="later"):
        pass


@given(rho=st.floats(1e-6, 0.1), order=st.sampled_from([order for order in ORDERS if order > 1.01]))
def test_no_order_holds_less_than_the_best_one(rho: float, order: float) -> None:
    spent = gaussian(rho)
    held = enforced_epsilon(spent, order=order, epsilon=CAP, delta=DELTA)
    assert held >= enforced_epsilon(spent, order=None, epsilon=CAP, delta=DELTA)
    assert held >= spent.epsilon(filter_delta({"delta": DELTA})) >= spent.epsilon(DELTA)


@given(rho=st.floats(1e-6, 0.2), share=st.floats(0.0, 1.0))
def test_truncation_within_its_share_is_covered_and_beyond_it_there_is_no_bound(rho: float, share: float) -> None:
    full = DELTA * truncation.SHARE / (1 + math.exp(CAP))
    spent = gaussian(rho, share * full)
    held = enforced_epsilon(spent, order=20.0, epsilon=CAP, delta=DELTA)
    if held <= CAP:
        assert held >= spent.epsilon(DELTA)  # which pays for the distance exactly
    assert math.isinf(enforced_epsilon(gaussian(rho, 1.01 * full), order=20.0, epsilon=CAP, delta=DELTA))


def test_a_cap_without_room_at_the_order_is_used_up() -> None:
    spent = gaussian(0.01)
    assert math.isinf(used_part(spent, order=2.0, epsilon=0.5, delta=DELTA))
    assert math.isinf(used_part(Cost(values=(math.inf,) * len(ORDERS)), order=2.0, epsilon=9.0, delta=DELTA))
