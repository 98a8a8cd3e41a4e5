"""Truncated sampling in the ledger: priced as untruncated, with what truncation costs beside it, and never for free."""

from __future__ import annotations

import dataclasses
import math
import sqlite3

import dp_accounting as d
import pytest
from scipy.stats import binom

from privacy_pipeline.accounting import truncation
from privacy_pipeline.accounting.accountants import guarantee
from privacy_pipeline.accounting.events import poisson_gaussian
from privacy_pipeline.accounting.plan import MechanismPlan, Relation, Sampler
from privacy_pipeline.accounting.renyi import ORDERS, AccountingError, epsilon_from_rdp, rdp_vector
from privacy_pipeline.errors import BudgetRefusedError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import State, price
from privacy_pipeline.ledger.storage.schema import LedgerError
from privacy_pipeline.ledger.storage.tables import SCHEMA_VERSION
from tests.ledger.conftest import DIGEST, UNITS, make_plan
from tests.ledger.old_ledgers import make_old_ledger

PROBABILITY, NOISE, STEPS, DELTA = 0.1, 2.0, 50, 1e-5


def truncated(cap: int, *, steps: int = STEPS, noise: float = NOISE) -> d.DpEvent:
    return d.SelfComposedDpEvent(d.dp_event.TruncatedSubsampledGaussianDpEvent(UNITS, PROBABILITY, cap, noise), steps)


def plan_of(event: d.DpEvent) -> MechanismPlan:
    return dataclasses.replace(make_plan(), sampler=Sampler.TRUNCATED_POISSON, event=event)


def run(ledger: Ledger, event: d.DpEvent, *, run_id: str) -> None:
    with ledger.spend(
        dataset="adult",
        span=None,
        data_digest=DIGEST,
        split="train",
        run_id=run_id,
        node="Trainer",
        plan=plan_of(event),
    ) as grant:
        grant.start()
        grant.commit(event)


def test_the_untruncated_event_and_the_distance() -> None:
    plain, distance = truncation.untruncated(truncated(150))
    assert plain == poisson_gaussian(sampling_probability=PROBABILITY, noise_multiplier=NOISE, steps=STEPS)
    assert distance == pytest.approx(STEPS * binom.sf(150, UNITS, PROBABILITY))
    both = d.ComposedDpEvent([truncated(150), d.GaussianDpEvent(1.0), truncated(150)])
    parts, together = truncation.untruncated(both)
    assert together == pytest.approx(2 * distance)
    assert parts == d.ComposedDpEvent([plain, d.GaussianDpEvent(1.0), plain])


def test_an_event_without_truncation_is_left_alone() -> None:
    event = poisson_gaussian(sampling_probability=0.1, noise_multiplier=1.0, steps=3)
    assert truncation.untruncated(event) == (event, 0.0)
    assert price(event, Relation.ZERO_OUT).distance == 0


def test_what_cannot_be_split_is_refused_by_the_accountant_as_before() -> None:
    with pytest.raises(AccountingError):
        price(d.PoissonSampledDpEvent(0.5, truncated(150)), Relation.ZERO_OUT)


@pytest.mark.slow
@pytest.mark.parametrize("cap", [120, 140, 160])
def test_the_two_step_bound_is_never_below_the_accountants_own(cap: int) -> None:
    cost = price(truncated(cap), Relation.ZERO_OUT)
    assert cost.epsilon(DELTA) >= guarantee(truncated(cap), delta=DELTA, relation=Relation.ZERO_OUT).epsilon


def test_epsilon_pays_for_truncation_at_its_own_size() -> None:
    values = rdp_vector(truncation.untruncated(truncated(150))[0], Relation.ZERO_OUT)[1]
    bare = epsilon_from_rdp(ORDERS, values, DELTA)
    assert truncation.epsilon_of(values, 0.0, delta=DELTA) == bare
    previous = bare
    for distance in (1e-12, 1e-8, 1e-7):
        epsilon = truncation.epsilon_of(values, distance, delta=DELTA)
        assert epsilon > previous
        # By hand: the bound holds at this epsilon.
        left = DELTA - (1 + math.exp(epsilon)) * distance
        assert epsilon_from_rdp(ORDERS, values, left) <= epsilon
        previous = epsilon
    assert math.isinf(truncation.epsilon_of(values, 1e-5, delta=DELTA))


def test_a_truncated_run_is_granted_and_counts_a_little_more(ledger: Ledger) -> None:
    run(ledger, truncated(170), run_id="a")
    (entry,) = ledger.entries("adult")
    plain = price(
        poisson_gaussian(sampling_probability=PROBABILITY, noise_multiplier=NOISE, steps=STEPS), Relation.ZERO_OUT
    )
    assert entry.state is State.COMMITTED and not entry.overrun
    assert 0 < entry.epsilon - plain.epsilon(DELTA) < 1e-3
    assert entry.epsilon <= ledger.status()[0].spent_epsilon == pytest.approx(entry.epsilon, rel=1e-12)  # rounded up
    assert ledger.composition(entry.id).epsilon_after == ledger.status()[0].spent_epsilon


def test_truncation_that_costs_too_much_of_delta_is_refused(ledger: Ledger) -> None:
    assert not ledger.forecast(plan_of(truncated(120)), dataset="adult", span=None, split="train").fits
    with pytest.raises(BudgetRefusedError, match="costs more of the cap's delta") as refused:
        run(ledger, truncated(120), run_id="a")
    assert "truncate_at" in refused.value.fix
    assert not ledger.entries("adult")


def test_the_share_for_truncation_is_used_up_by_many_runs(ledger: Ledger) -> None:
    few = truncated(160, steps=1, noise=50.0)
    forecast = ledger.forecast(plan_of(few), dataset="adult", span=None, split="train")
    share = truncation.paid(binom.sf(160, UNITS, PROBABILITY), epsilon=3.0)
    assert forecast.runs_that_fit == math.floor(1e-5 * truncation.SHARE / share) > 1
    for number in range(forecast.runs_that_fit):
        run(ledger, few, run_id=str(number))
    more = ledger.forecast(plan_of(few), dataset="adult", span=None, split="train")
    assert math.isinf(more.epsilon_after) and not more.fits and forecast.epsilon_after <= 3.0
    with pytest.raises(BudgetRefusedError, match="costs more of the cap's delta"):
        run(ledger, few, run_id="one more")


def old_ledger(url: str) -> str:
    """A ledger as version 1 left it, with an entry."""
    make_old_ledger(url, runs=["old"], version=1)
    return url.removeprefix("sqlite:///")


def test_a_ledger_of_version_1_is_brought_up_to_date_with_its_entries(url: str) -> None:
    path = old_ledger(url)
    ledger = Ledger.open(url)
    (entry,) = ledger.entries("adult")
    assert (entry.run_id, entry.state) == ("old", State.COMMITTED)
    assert entry.epsilon == price(make_plan().event, Relation.ZERO_OUT).epsilon(1e-5)
    run(ledger, truncated(170), run_id="new")
    with sqlite3.connect(path) as connection:
        known = "SELECT value FROM ledger_meta WHERE key = 'schema_version'"
        assert connection.execute(known).fetchone() == (SCHEMA_VERSION,)
        distances = "SELECT total_variation FROM entries JOIN charges ON digest = executed ORDER BY id"
        assert [tv > 0 for (tv,) in connection.execute(distances)] == [False, True]
    assert len(Ledger.open(url).entries("adult")) == 2


def test_a_failed_upgrade_changes_nothing(url: str) -> None:
    path = old_ledger(url)
    with sqlite3.connect(path) as connection:  # the column is there, so that adding it fails
        connection.execute("ALTER TABLE entries ADD COLUMN total_variation TEXT")
    with pytest.raises(LedgerError, match="duplicate column"):
        Ledger.open(url)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT value FROM ledger_meta").fetchall() == [("1",)]
        assert len(connection.execute("SELECT name FROM sqlite_master WHERE name LIKE '%journal%'").fetchall()) == 0


def test_a_ledger_of_a_later_version_is_refused(url: str) -> None:
    path = old_ledger(url)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE ledger_meta SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(LedgerError, match="format 99"):
        Ledger.open(url)
