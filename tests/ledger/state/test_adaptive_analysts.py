"""An analyst who sees outputs before choosing what runs next, and what changes next, against the filter.

The mechanisms are finite, so the delta of a whole interaction is computed exactly. The first one has outcomes of
different privacy losses; after each of them the analyst asks for the two-point mechanism that does most harm among
those that are still granted. The search moves the first mechanism. Under the rule of version 0.1.0, which chose the
order anew after a change of a policy, it finds more than was claimed; under today's rule it may come near the cap's
delta and never passes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import differential_evolution  # type: ignore[import-untyped]

from privacy_pipeline.accounting import truncation
from privacy_pipeline.accounting.events import canonical
from privacy_pipeline.accounting.plan import MechanismPlan, Relation
from privacy_pipeline.accounting.renyi import ORDERS, rdp_vector
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state import entries as ledger_entries
from privacy_pipeline.ledger.state import renyi_filter
from privacy_pipeline.ledger.state.entries import Price
from privacy_pipeline.ledger.state.policy import Policy
from tests.ledger.conftest import make_plan, make_registration
from tests.ledger.test_ledger import run, spend

Floats = npt.NDArray[np.float64]
EPSILON, DELTA = 8.0, 1e-5
PART = DELTA * (1 - truncation.SHARE)
ALL = np.array(ORDERS)
OUTCOMES = 4
LEAST = 1e-200  # a chance that adds nothing
BOUNDS = [(0.01, 3.0)] * OUTCOMES + [(-9.0, -0.3)] * OUTCOMES
# Found by the search under the rule of 0.1.0: losses that are added up, and logarithms of probabilities.
KNOWN = np.array([2.1523, 0.0925, 0.599, 0.0843, -3.618, -0.8085, -3.6517, -6.4615])


def divergences(p: Floats, q: Floats) -> Floats:
    """Renyi divergence of two distributions at each order, the larger of both directions."""
    one, other = np.log(p)[:, None], np.log(q)[:, None]
    forth = np.logaddexp.reduce(ALL * one + (1 - ALL) * other) / (ALL - 1)
    back = np.logaddexp.reduce(ALL * other + (1 - ALL) * one) / (ALL - 1)
    return np.maximum(np.maximum(forth, back), 0.0)


def two_point(chance: float, loss: float) -> tuple[Floats, Floats]:
    """A rare outcome of a given loss, and its complement."""
    rare = chance * math.exp(-loss)
    return np.array([1 - chance, chance]), np.array([1 - rare, rare])


@dataclass(frozen=True)
class First:
    """The first mechanism: its distributions on a dataset and on a neighbour, and what it costs."""

    p: Floats
    q: Floats

    @classmethod
    def of(cls, x: Floats) -> First | None:
        losses, chances = np.cumsum(np.abs(x[:OUTCOMES])), np.exp(x[OUTCOMES:])
        if chances.sum() > 0.5 or losses[-1] > EPSILON - 0.2:
            return None
        other = chances * np.exp(-losses)
        return cls(np.array([1 - chances.sum(), *chances]), np.array([1 - other.sum(), *other]))

    @property
    def cost(self) -> Floats:
        return divergences(self.p, self.q)


Orders = Callable[[Floats, Floats], float]  # the order at which the second run is weighed: first cost, its own


def fixed_order(first: Floats, _second: Floats) -> float:
    """Today: that of the first run, whatever changes."""
    return renyi_filter.choose_order(ORDERS, [0.0] * len(ORDERS), first.tolist(), epsilon=EPSILON, delta=PART)


def chosen_again(first: Floats, second: Floats) -> float:
    """Version 0.1.0, after a change of a policy."""
    return renyi_filter.choose_order(ORDERS, first.tolist(), second.tolist(), epsilon=EPSILON, delta=PART)


def within(cost: Floats, order: float) -> bool:
    held = renyi_filter.filter_epsilon(ORDERS, cost.tolist(), order=order, delta=PART)
    return held <= EPSILON - 1e-9  # a ledger rounds against whoever asks


def harm(chance: float, loss: float, before: float) -> float:
    """What a rare outcome adds to delta once `before` was lost."""
    return chance * max(0.0, 1 - math.exp(EPSILON - before - loss))


def second_of(spent: Floats, before: float, orders: Orders, room: Floats) -> tuple[float, float]:
    """Chance and loss of the second mechanism that does most harm after an outcome of loss `before`."""
    usable = ALL > 1.01
    if orders is fixed_order:
        usable &= fixed_order(spent, spent) == ALL
    gap = np.log(ALL[usable] / (ALL[usable] - 1))
    loss = EPSILON + gap - before
    log_chance = np.minimum((ALL[usable] - 1) * (room[usable] - loss), -0.7)
    gain = np.where(room[usable] > 0, log_chance + np.log1p(-np.exp(-gap)), -np.inf)
    at = int(np.argmax(gain))
    chance, lost = max(math.exp(log_chance[at]), LEAST), float(loss[at])
    for _ in range(40):
        cost = divergences(*two_point(chance, lost))
        if within(spent + cost, orders(spent, cost)):
            return chance, lost
        chance = max(0.9 * chance, LEAST)
    return LEAST, lost


def delta_of(x: Floats, orders: Orders) -> float:
    """Exact delta at the cap's epsilon of the whole interaction; 0 where the first run is refused."""
    first = First.of(np.asarray(x))
    if first is None or not within(first.cost, fixed_order(first.cost, first.cost)):
        return 0.0
    allowed = np.array([renyi_filter.allowance(order, epsilon=EPSILON, delta=PART) for order in ORDERS])
    total = 0.0
    for p, q in zip(first.p, first.q, strict=True):
        before = math.log(p / q)
        chance, loss = second_of(first.cost, before, orders, allowed - first.cost)
        total += p * harm(chance, loss, before)
    return total


def search(orders: Orders, *, seed: int, rounds: int) -> float:
    found = differential_evolution(
        lambda x: -delta_of(x, orders), BOUNDS, x0=KNOWN, seed=seed, maxiter=rounds, popsize=4, polish=False
    )
    return float(-found.fun)


def test_an_order_that_is_chosen_again_breaks_what_0_1_0_claimed() -> None:
    assert delta_of(KNOWN, chosen_again) > 2 * DELTA  # one change of a policy: twice the delta was claimed
    assert delta_of(KNOWN, chosen_again) <= len(ORDERS) * DELTA  # what is stated of such budgets now


@pytest.mark.parametrize("seed", [1])
def test_no_analyst_passes_the_cap_at_the_order_of_the_first_run(seed: int) -> None:
    found = search(fixed_order, seed=seed, rounds=4)
    assert 0.05 * DELTA < found <= DELTA  # it does look where harm is done


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_longer_search_passes_neither(seed: int) -> None:
    assert 0.2 * DELTA < search(fixed_order, seed=seed, rounds=60) <= DELTA
    assert search(chosen_again, seed=seed, rounds=30) > 2 * DELTA


CHANGES: dict[str, Callable[[Ledger], object]] = {
    "nothing": lambda ledger: None,
    "alerts": lambda ledger: ledger.apply_policy(policy(alerts=(0.3,))),
    "shares": lambda ledger: ledger.apply_policy(policy(shares={"train": 0.9, "tune": 0.1})),
    "who may spend": lambda ledger: ledger.apply_policy(policy(may_spend=None, eval_epsilon=1.0)),
    "a higher cap and back": lambda ledger: (
        ledger.set_cap("adult", epsilon=20.0, delta=DELTA),
        ledger.set_cap("adult", epsilon=EPSILON, delta=DELTA),
    ),
    "key": lambda ledger: ledger.rotate_key(),
}


def policy(**changes: object) -> Policy:
    return Policy.model_validate({"dataset": "adult", "epsilon": EPSILON, "delta": DELTA, "unit": "row", **changes})


def plan_of(monkeypatch: pytest.MonkeyPatch, noise: float, cost: Floats) -> MechanismPlan:
    """A plan that stands in for a mechanism that no event describes: the ledger prices it as that one."""
    plan = make_plan(noise)
    text = canonical(plan.event)
    known = Price(event=text, values=tuple(cost.tolist()))
    monkeypatch.setitem(ledger_entries._PRICES, (text, plan.relation), known)
    return plan


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_ledger_weighs_at_one_order_whatever_changes(
    url: str, change: Callable[[Ledger], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = First.of(KNOWN)
    assert first is not None
    ledger = Ledger.open(url, create=True)
    ledger.register(make_registration(), epsilon=EPSILON, delta=DELTA, policy=policy())
    run(ledger, plan_of(monkeypatch, 10.0, first.cost), run_id="first")
    (status, *_) = ledger.status()
    change(ledger)
    assert ledger.status()[0].filter_order == status.filter_order == fixed_order(first.cost, first.cost)
    allowed = np.array([renyi_filter.allowance(order, epsilon=EPSILON, delta=PART) for order in ORDERS])
    granted, noise, total = [], 20.0, 0.0
    for p, q in zip(first.p[1:], first.q[1:], strict=True):
        before = math.log(p / q)
        for orders in (chosen_again, fixed_order):
            chance, loss = second_of(first.cost, before, orders, allowed - first.cost)
            noise += 1
            plan = plan_of(monkeypatch, noise, divergences(*two_point(chance, loss)))
            request = {"dataset": "adult", "span": None, "split": "train"}
            fits = ledger.forecast(plan, **request).fits
            granted.append((orders is fixed_order, fits))
            total += p * harm(chance, loss, before) if fits and orders is chosen_again else 0.0
    assert (True, False) not in granted or change is CHANGES["shares"]  # a share may refuse what the order grants
    assert (False, False) in granted and total <= DELTA  # what broke 0.1.0 is refused, or does no harm


def touch(ledger: Ledger, dataset: str, random: np.random.Generator) -> None:
    """One of the changes that an analyst may make between two runs."""
    kind = random.integers(3)
    if kind == 0:
        ledger.rotate_key()
    elif kind == 1:
        ledger.set_cap(dataset, epsilon=2 * EPSILON, delta=DELTA)
        ledger.set_cap(dataset, epsilon=EPSILON, delta=DELTA)
    else:
        ledger.apply_policy(policy(dataset=dataset, alerts=(float(random.uniform(0.1, 0.9)),)))


def delta_by_asking(ledger: Ledger, first: First, dataset: str, random: np.random.Generator, price: Any) -> float:
    """Exact delta of an analyst who makes two changes after each outcome, and the worst run that is still granted."""
    digest = hashlib.sha256(dataset.encode()).hexdigest()
    ledger.register(make_registration(dataset, digest=digest), epsilon=EPSILON, delta=DELTA)
    request: dict[str, Any] = {"dataset": dataset, "span": None, "split": "train"}
    plan = price(first.cost)
    with ledger.spend(**request, data_digest=digest, run_id=dataset, node="n", plan=plan) as grant:
        grant.start()
        grant.commit(plan.event)
    allowed = np.array([renyi_filter.allowance(order, epsilon=EPSILON, delta=PART) for order in ORDERS])
    total = 0.0
    for p, q in zip(first.p, first.q, strict=True):
        for _ in range(2):
            touch(ledger, dataset, random)
        before = math.log(p / q)
        asked = [second_of(first.cost, before, orders, allowed - first.cost) for orders in (chosen_again, fixed_order)]
        granted = [one for one in asked if ledger.forecast(price(divergences(*two_point(*one))), **request).fits]
        total += p * max((harm(*one, before) for one in granted), default=0.0)
    return total


@pytest.mark.slow_but("1")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_analyst_who_asks_a_ledger_never_passes_the_cap(
    url: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random, ledger, noises = np.random.default_rng(seed), Ledger.open(url, create=True), itertools.count(10)
    near = [KNOWN + random.normal(0, 0.1, KNOWN.size) for _ in range(12)]
    usable = [x for x in near if delta_of(x, fixed_order) > 0][:4]
    found = [
        delta_by_asking(
            ledger,
            cast(First, First.of(x)),
            f"data-{number}",
            random,
            lambda cost: plan_of(monkeypatch, float(next(noises)), cost),
        )
        for number, x in enumerate(usable)
    ]
    assert len(found) == 4 and 1e-3 * DELTA < max(found) <= DELTA  # it does look where harm is done
    assert max(delta_of(x, chosen_again) for x in usable) > DELTA  # by the rule of 0.1.0 the same analysts passed
    assert ledger.verify(reprice=False).ok


def test_the_cap_may_rise_after_outputs_and_delta_may_not_change(ledger: Ledger) -> None:
    ledger.set_cap("adult", epsilon=3.5, delta=1e-6)  # nothing was charged: nothing was seen
    ledger.set_cap("adult", epsilon=3.0, delta=1e-5)
    run(ledger, make_plan())
    order = ledger.status()[0].filter_order
    for delta in (1e-6, 2e-5):
        with pytest.raises(BadInputError, match="its delta is 1e-05 since the first run") as caught:
            ledger.set_cap("adult", epsilon=3.0, delta=delta)
        assert "delta: 1e-05" in str(caught.value.fix)
        with pytest.raises(BadInputError, match="its delta is 1e-05 since the first run"):
            ledger.apply_policy(policy(epsilon=3.0, delta=delta))
    ledger.set_cap("adult", epsilon=30.0, delta=1e-5)
    run(ledger, make_plan(1.0), run_id="large")
    assert ledger.status()[0].filter_order == order and ledger.verify().ok


def test_an_expired_reservation_fixes_nothing(ledger: Ledger) -> None:
    with spend(ledger, make_plan(2.0)):
        pass
    ledger.set_cap("adult", epsilon=3.0, delta=1e-6)
    run(ledger, make_plan(200.0))
    cost = rdp_vector(make_plan(200.0).event, Relation.ZERO_OUT)[1]
    earlier, now = (
        renyi_filter.choose_order(ORDERS, [0.0] * len(ORDERS), cost, epsilon=3.0, delta=delta * (1 - truncation.SHARE))
        for delta in (1e-5, 1e-6)
    )
    assert ledger.status()[0].filter_order == now != earlier and ledger.verify().ok


def failing_plan(monkeypatch: pytest.MonkeyPatch, noise: float, failure: float) -> MechanismPlan:
    """A run that fails, and then keeps nothing back, with a given chance."""
    plan = plan_of(monkeypatch, noise, ALL / (2 * noise**2))
    known = ledger_entries._PRICES[canonical(plan.event), plan.relation]
    failing = dataclasses.replace(known, distance=failure)
    monkeypatch.setitem(ledger_entries._PRICES, (canonical(plan.event), plan.relation), failing)
    return plan


def test_a_failure_is_priced_at_a_ceiling_that_no_later_cap_passes(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.set_cap("adult", epsilon=8.0, delta=DELTA)  # no run may fail yet: any cap may be set
    failure = 0.4 * DELTA * truncation.SHARE / (1 + math.exp(8.0))
    run(ledger, failing_plan(monkeypatch, 10.0, failure), run_id="one")
    assert ledger.status()[0].ceiling == 8.0  # a hundred such runs do not fit at any ceiling, so it is the cap
    with pytest.raises(BadInputError, match=r"no cap was to pass epsilon 8"):
        ledger.set_cap("adult", epsilon=8.1, delta=DELTA)
    ledger.set_cap("adult", epsilon=4.0, delta=DELTA)
    run(ledger, failing_plan(monkeypatch, 11.0, failure), run_id="two")  # priced at 8, although the cap is 4
    with pytest.raises(BudgetRefusedError, match="delta"), spend(ledger, failing_plan(monkeypatch, 12.0, failure)):
        pass
    ledger.set_cap("adult", epsilon=8.0, delta=DELTA)
    assert ledger.verify(reprice=False).ok


def test_without_a_policy_the_ceiling_leaves_room_for_a_hundred_runs(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(ledger, failing_plan(monkeypatch, 10.0, DELTA * truncation.SHARE / 100 / math.exp(12.0)))
    (status,) = ledger.status()
    assert status.ceiling == pytest.approx(12.0)
    ledger.set_cap("adult", epsilon=11.9, delta=DELTA)
    with pytest.raises(BadInputError, match="no cap was to pass epsilon 12"):
        ledger.set_cap("adult", epsilon=12.1, delta=DELTA)
    assert ledger.verify(reprice=False).ok


def test_a_policy_sets_the_ceiling_before_the_first_run_that_may_fail(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.apply_policy(policy(epsilon=2.0, ceiling=6.0))
    cheap = DELTA * truncation.SHARE / (1 + math.exp(2.0))
    with pytest.raises(BudgetRefusedError), spend(ledger, failing_plan(monkeypatch, 10.0, 0.9 * cheap)):
        pass
    run(ledger, failing_plan(monkeypatch, 10.0, DELTA * truncation.SHARE / 2 / (1 + math.exp(6.0))))
    ledger.apply_policy(policy(epsilon=6.0, ceiling=6.0))
    for changed in (policy(epsilon=6.5), policy(epsilon=6.5, ceiling=9.0)):
        with pytest.raises(BadInputError, match="no cap was to pass epsilon 6"):
            ledger.apply_policy(changed)
    with pytest.raises(ValueError, match="the ceiling of 1 is below the cap of 2"):
        policy(epsilon=2.0, ceiling=1.0)
    assert ledger.verify(reprice=False).ok
