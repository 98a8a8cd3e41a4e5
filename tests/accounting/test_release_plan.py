"""What a release costs: zCDP by the accountant, and a threshold's (0, delta)-DP part as a distance beside it."""

from __future__ import annotations

import dataclasses

import dp_accounting as d
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_pipeline.accounting import events, truncation
from privacy_pipeline.accounting.accountants import epsilon_of, guarantee
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.release_plan import ReleasePlan, default_threshold_delta, epsilon_of_rho, rho_for
from privacy_pipeline.accounting.renyi import AccountingError
from privacy_pipeline.accounting.total_variation import TotalVariationDpEvent
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.state.entries import price

DELTA = 1e-5
PLAN = ReleasePlan(
    kind="dp_evaluation",
    unit="row",
    contribution_bound=1,
    relation=Relation.ZERO_OUT,
    units=1000,
    delta=DELTA,
    rho=0.01,
    threshold_delta=1e-9,
    queries={"all": {"kind": "counts"}},
)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 20), st.floats(1e-10, 1e-3))
def test_rho_meets_the_target_and_no_more(epsilon: float, delta: float) -> None:
    rho = rho_for(epsilon=epsilon, delta=delta)
    assert epsilon_of(d.ZCDpEvent(rho), delta=delta, relation=Relation.ZERO_OUT) <= epsilon
    assert epsilon_of(d.ZCDpEvent(rho * 1.001), delta=delta, relation=Relation.ZERO_OUT) > epsilon


@pytest.mark.parametrize("relation", list(Relation))
def test_the_events_epsilon_is_the_plans(relation: Relation) -> None:
    plan = dataclasses.replace(PLAN, relation=relation, units=1000 if relation is Relation.ZERO_OUT else None)
    assert epsilon_of(plan.event, delta=DELTA, relation=relation) == pytest.approx(plan.epsilon, rel=1e-12)
    assert plan.epsilon > epsilon_of_rho(plan.rho, delta=DELTA)


def test_the_guarantee_of_a_release_is_by_rdp_with_its_distance_along_the_curve() -> None:
    found = guarantee(PLAN.event, delta=DELTA, relation=Relation.ZERO_OUT)
    assert found.epsilon == found.epsilon_rdp == pytest.approx(PLAN.epsilon, rel=1e-12)
    assert (found.accountant, found.epsilon_pld) == ("rdp", None)
    without = guarantee(d.ZCDpEvent(PLAN.rho), delta=DELTA, relation=Relation.ZERO_OUT)
    cheaper = dict((delta, epsilon) for epsilon, delta in without.curve)
    assert found.curve
    assert all(epsilon > cheaper[delta] for epsilon, delta in found.curve)


def test_a_threshold_is_a_distance_in_the_ledgers_price() -> None:
    cost = price(PLAN.event, Relation.ZERO_OUT)
    assert cost.distance == 1e-9
    assert cost.values == price(d.ZCDpEvent(0.01), Relation.ZERO_OUT).values
    assert cost.epsilon(DELTA) == pytest.approx(PLAN.epsilon, rel=1e-12)
    twice = d.SelfComposedDpEvent(PLAN.event, 2)
    assert truncation.untruncated(twice)[1] == 2e-9


def test_a_distance_of_zero_does_not_hide_the_part() -> None:
    plain, distance = truncation.untruncated(TotalVariationDpEvent(0.0))
    assert plain == d.NoOpDpEvent()
    assert distance > 0


def test_a_distance_under_sampling_has_no_known_price() -> None:
    with pytest.raises(AccountingError):
        price(d.PoissonSampledDpEvent(0.1, TotalVariationDpEvent(1e-9)), Relation.ZERO_OUT)


def test_the_event_survives_json_and_refuses_what_is_no_distance() -> None:
    text = events.to_json(PLAN.event)
    assert events.from_json(text) == PLAN.event
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(BadInputError):
            events.to_json(TotalVariationDpEvent(wrong))


def test_a_namesake_is_not_the_event() -> None:
    namesake = type("TotalVariationDpEvent", (d.DpEvent,), {"distance": 0.0})
    with pytest.raises(BadInputError, match="is not"):
        events.to_json(namesake())


def test_the_threshold_fits_the_share_that_a_budget_keeps_for_distances() -> None:
    for epsilon in (0.1, 3.0, 12.0):
        distance = default_threshold_delta(epsilon=epsilon, delta=DELTA)
        assert truncation.paid(distance, epsilon=max(epsilon, 10.0)) <= truncation.SHARE * DELTA / 9


def test_the_digest_follows_the_parameters() -> None:
    other = dataclasses.replace(PLAN, queries={"all": {"kind": "other"}})
    assert PLAN.digest() != other.digest()
    assert PLAN.digest() == dataclasses.replace(PLAN).digest()


def test_what_makes_no_plan_is_refused() -> None:
    with pytest.raises(ValueError, match="number of units"):
        dataclasses.replace(PLAN, units=None)
    with pytest.raises(ValueError, match="rho"):
        dataclasses.replace(PLAN, rho=0.0)
    with pytest.raises(BadInputError, match="no noise"):
        rho_for(epsilon=1e-6, delta=DELTA, distance=1e-3)
