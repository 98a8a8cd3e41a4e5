"""One process and one ledger: what is granted, what is refused, and what counts."""

from __future__ import annotations

import math
import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dp_accounting import dp_event as d
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_pipeline.accounting.events import gaussian_passes, poisson_gaussian, to_json
from privacy_pipeline.accounting.plan import MechanismPlan, Relation
from privacy_pipeline.accounting.renyi import AccountingError
from privacy_pipeline.covered_digests import covered
from privacy_pipeline.errors import BadInputError, BudgetRefusedError, PipelineError
from privacy_pipeline.ledger.charging.grants import Grant, ResumeToken
from privacy_pipeline.ledger.charging.request import Request
from privacy_pipeline.ledger.charging.reservation import reserve
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import State
from privacy_pipeline.ledger.state.held import against_cap
from privacy_pipeline.ledger.state.registration import Registration, SplitCount
from privacy_pipeline.ledger.storage.schema import LedgerError
from tests.clean_fork import CLEAN, clean_process
from tests.ledger.conftest import DIGEST, UNITS, make_plan, make_registration

OTHER = "b" * 64


REQUEST = {"dataset": "adult", "span": None, "data_digest": DIGEST, "split": "train", "run_id": "run-1"}


def spend(ledger: Ledger, plan: MechanismPlan, **changes: Any) -> AbstractContextManager[Grant]:
    request: dict[str, Any] = {**REQUEST, "node": "trainer", **changes}
    return ledger.spend(**request, plan=plan)


def committed_by(ledger: Ledger, plan: MechanismPlan, resume_token: ResumeToken, **changes: Any) -> int | None:
    request: dict[str, Any] = {**REQUEST, "node": "trainer", **changes}
    return ledger.committed(**request, plan=plan, resume_token=resume_token)


def run(ledger: Ledger, plan: MechanismPlan, **changes: Any) -> Grant:
    with spend(ledger, plan, **changes) as grant:
        grant.start()
        grant.commit(plan.event)
    return grant


def states(ledger: Ledger) -> list[State]:
    return [entry.state for entry in ledger.entries("adult")]


def spent(ledger: Ledger) -> float:
    return ledger.status("adult")[0].spent_epsilon


def test_a_missing_ledger_is_refused_with_the_next_command(url: str) -> None:
    with pytest.raises(BadInputError) as caught:
        Ledger.open(url)
    assert "register" in caught.value.fix
    assert not Path(sa.make_url(url).database or "").parent.exists()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/db", "nonsense", "nosuch://x"])
def test_unusable_urls(url: str) -> None:
    with pytest.raises(BadInputError):
        Ledger.open(url, create=True)


def test_an_empty_database_is_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with pytest.raises(BadInputError, match="no ledger"):
        Ledger.open(f"sqlite:///{tmp_path}/empty.db")


def test_a_run_from_reservation_to_commit(ledger: Ledger, url: str) -> None:
    plan = make_plan(noise=10.0, epochs=4)
    with spend(ledger, plan) as grant:
        assert states(ledger) == [State.RESERVED]
        grant.start()
        assert states(ledger) == [State.STARTED]
        grant.commit(plan.event)
    again = Ledger.open(url)
    (entry,) = again.entries("adult")
    assert (entry.state, entry.overrun, entry.attempt) == (State.COMMITTED, False, 1)
    assert entry.event == entry.executed_event == to_json(plan.event)
    (status,) = again.status()
    assert status.spent_epsilon == entry.epsilon == status.simple_epsilon > 0
    assert status.enforced_epsilon > status.spent_epsilon
    assert status.remaining_epsilon == 3.0 - status.enforced_epsilon
    composed = again.composition(grant.entry_id)
    assert (composed.entries_before, composed.epsilon_before) == (0, 0.0)
    assert composed.epsilon_after == status.spent_epsilon
    assert composed.budget == grant.budget == status.budget == "adult/train/row"


def test_sqlite_syncs_every_commit(ledger: Ledger) -> None:
    with ledger._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_leaving_without_a_start_gives_the_budget_back(ledger: Ledger) -> None:
    with spend(ledger, make_plan()):
        pass
    with pytest.raises(RuntimeError, match="stop"), spend(ledger, make_plan()):
        raise RuntimeError("stop")
    assert states(ledger) == [State.EXPIRED, State.EXPIRED]
    assert spent(ledger) == 0


def test_a_started_run_that_fails_counts_in_full(ledger: Ledger) -> None:
    plan = make_plan(noise=5.0)
    with pytest.raises(KeyboardInterrupt), spend(ledger, plan) as grant:
        grant.start()
        raise KeyboardInterrupt
    assert states(ledger) == [State.STARTED]
    assert spent(ledger) == pytest.approx(ledger.entries("adult")[0].epsilon)
    assert ledger.expire_reserved("run-1") == 0
    assert states(ledger) == [State.STARTED]


def test_commit_needs_a_start_and_happens_once(ledger: Ledger) -> None:
    plan = make_plan()
    with spend(ledger, plan) as grant:
        with pytest.raises(BudgetRefusedError):
            grant.commit(plan.event)
        grant.start()
        with pytest.raises(BudgetRefusedError):
            grant.start()
        grant.commit(plan.event)
        with pytest.raises(BudgetRefusedError):
            grant.commit(plan.event)


def test_executing_less_is_never_refunded(ledger: Ledger) -> None:
    with spend(ledger, make_plan(epochs=4)) as grant:
        grant.start()
        before = spent(ledger)
        grant.commit(gaussian_passes(noise_multiplier=10.0, epochs=1))
    assert spent(ledger) == before
    assert not ledger.entries("adult")[0].overrun


def test_executing_more_is_charged_and_marked(ledger: Ledger) -> None:
    with spend(ledger, make_plan(epochs=1)) as grant:
        grant.start()
        grant.commit(gaussian_passes(noise_multiplier=10.0, epochs=100))
    run_alone = ledger.forecast(make_plan(epochs=100), dataset="adult", span=None, split="train").epsilon_run
    assert spent(ledger) == pytest.approx(run_alone)
    assert ledger.entries("adult")[0].overrun and ledger.status()[0].overruns == 1


def test_executing_something_partly_dearer_charges_the_maximum_of_both(ledger: Ledger) -> None:
    with spend(ledger, make_plan(noise=5.0)) as grant:
        grant.start()
        planned = spent(ledger)
        # Cheaper at low Renyi orders, dearer at high ones.
        grant.commit(poisson_gaussian(sampling_probability=0.01, noise_multiplier=0.7, steps=20))
    assert ledger.entries("adult")[0].overrun
    assert spent(ledger) >= planned


@pytest.mark.parametrize(
    "event",
    [
        d.NonPrivateDpEvent(),
        d.UnsupportedDpEvent(),
        d.SampledWithoutReplacementDpEvent(10, 1, d.GaussianDpEvent(1.0)),
        d.GaussianDpEvent(0.0),
    ],
)
def test_executing_what_cannot_be_accounted_for_closes_the_budget(ledger: Ledger, event: d.DpEvent) -> None:
    with spend(ledger, make_plan()) as grant:
        grant.start()
        with suppress(AccountingError, BadInputError):
            grant.commit(event)
    assert spent(ledger) == math.inf
    with pytest.raises(BudgetRefusedError), spend(ledger, make_plan(noise=1000.0)):
        pass
    with pytest.raises(AccountingError):
        ledger.composition(grant.entry_id)


def test_the_cap_holds_and_a_refusal_says_why_and_leaves_no_trace(ledger: Ledger) -> None:
    plan = make_plan(noise=10.0, epochs=10)
    forecast = ledger.forecast(plan, dataset="adult", span=None, split="train")
    assert forecast.runs_that_fit >= 2 and forecast.fits
    for number in range(forecast.runs_that_fit):
        run(ledger, plan, run_id=f"run-{number}")
    before, (status,) = ledger.entries("adult"), ledger.status("adult")
    with pytest.raises(BudgetRefusedError) as caught, spend(ledger, plan, run_id="one-too-many"):
        pass
    after = ledger.forecast(plan, dataset="adult", span=None, split="train")
    assert f"counted against the cap: {against_cap(status.enforced_epsilon, 3.0)}" in caught.value.message
    assert f"with it {against_cap(after.epsilon_after, 3.0)} would be counted" in caught.value.message
    assert f"this run costs {forecast.epsilon_run:.4f}" in caught.value.message
    assert "cap of 3" in caught.value.message and "remain" in caught.value.message
    assert caught.value.fix
    assert ledger.entries("adult") == before
    assert (after.fits, after.runs_that_fit) == (False, 0)
    assert after.epsilon_before == status.enforced_epsilon <= 3.0 < after.epsilon_after


@pytest.mark.parametrize("spent_already", [False, True])
def test_a_forecast_counts_what_the_same_run_will_have_paid_before(ledger: Ledger, spent_already: bool) -> None:
    first, second = make_plan(noise=9.0, epochs=3), make_plan(noise=10.0, epochs=10)
    if spent_already:
        run(ledger, make_plan(noise=20.0), run_id="earlier")
    where: dict[str, Any] = {"dataset": "adult", "span": None, "split": "train"}
    alone = ledger.forecast(second, **where)
    foretold = ledger.forecast(second, **where, before=[("train", first)] * 2)
    for number in range(2):
        run(ledger, first, run_id=f"run-{number}")
    assert foretold == ledger.forecast(second, **where)
    assert foretold.epsilon_before > alone.epsilon_before and foretold.runs_that_fit < alone.runs_that_fit


def test_unregistered_data_is_refused(ledger: Ledger) -> None:
    for changes in ({"dataset": "census", "data_digest": OTHER}, {"span": 7}):
        with pytest.raises(BudgetRefusedError, match="not registered") as caught, spend(ledger, make_plan(), **changes):
            pass
        assert "budget register" in caught.value.fix
    assert ledger.entries("adult") == []


def test_changed_data_and_data_of_another_dataset_are_refused(ledger: Ledger) -> None:
    with (
        pytest.raises(BudgetRefusedError, match="not what was registered"),
        spend(ledger, make_plan(), data_digest="c" * 64),
    ):
        pass
    ledger.register(make_registration("census", digest=OTHER), epsilon=1.0, delta=1e-6)
    with pytest.raises(BudgetRefusedError, match="registered as census"), spend(ledger, make_plan(), data_digest=OTHER):
        pass
    assert ledger.entries("adult") == [] == ledger.entries("census")


def test_the_same_data_under_a_second_name_is_refused(ledger: Ledger) -> None:
    with pytest.raises(BadInputError, match="as dataset adult"):
        ledger.register(make_registration("adult-again"), epsilon=3.0, delta=1e-5)
    assert [known.dataset for known in ledger.registrations()] == ["adult"]
    assert len(ledger.status()) == 1


@pytest.mark.parametrize(
    "plan",
    [
        make_plan(relation=Relation.ADD_OR_REMOVE_ONE),
        make_plan(unit="person"),
        make_plan(units=UNITS + 1),
        replace(make_plan(), contribution_bound=2),
    ],
)
def test_a_plan_that_does_not_fit_the_registration_is_refused(ledger: Ledger, plan: MechanismPlan) -> None:
    with pytest.raises(BudgetRefusedError, match="is registered with"), spend(ledger, plan):
        pass
    with pytest.raises(BudgetRefusedError):
        ledger.forecast(plan, dataset="adult", span=None, split="train")
    assert ledger.entries("adult") == []


def test_only_the_train_split_has_a_budget(ledger: Ledger) -> None:
    with pytest.raises(BudgetRefusedError, match="'eval'"), spend(ledger, make_plan(units=200), split="eval"):
        pass


def test_the_relation_reaches_the_accountant(url: str) -> None:
    ledger = Ledger.open(url, create=True)
    ledger.register(replace(make_registration(), relation=Relation.ADD_OR_REMOVE_ONE), epsilon=3.0, delta=1e-5)
    trees = replace(
        make_plan(relation=Relation.ADD_OR_REMOVE_ONE), event=d.SingleEpochTreeAggregationDpEvent(5.0, 8)
    )  # the library accounts for it under zero-out only
    with pytest.raises(AccountingError), spend(ledger, trees):
        pass
    assert ledger.entries("adult") == []


def test_registering_again(ledger: Ledger) -> None:
    ledger.register(replace(make_registration(), registered="2027-01-01T00:00:00+00:00"), epsilon=3.0, delta=1e-5)
    known = ledger.registration("adult", None)
    stated = replace(make_registration(), digest=covered(DIGEST, ledger.digest_secret()))
    assert known is not None and known == stated
    assert known.registered.startswith("2026")
    resplit = replace(make_registration(), splits={"train": SplitCount(rows=1200, units=1200)})
    with pytest.raises(BadInputError, match="other values of: splits"):
        ledger.register(resplit, epsilon=3.0, delta=1e-5)
    with pytest.raises(BadInputError, match="cap"):
        ledger.register(make_registration(), epsilon=30.0, delta=1e-5)
    assert ledger.registrations() == [stated]
    assert ledger.registration("adult", 1) is None
    assert ledger.status()[0].cap_epsilon == 3.0


def test_spans_share_one_budget(ledger: Ledger) -> None:
    ledger.register(make_registration(span=1, digest=OTHER), epsilon=3.0, delta=1e-5)
    run(ledger, make_plan(epochs=10))
    first = spent(ledger)
    run(ledger, make_plan(epochs=10), span=1, data_digest=OTHER)
    (status,) = ledger.status()
    assert status.spent_epsilon > first
    assert status.entries[State.COMMITTED] == 2
    assert [entry.span for entry in ledger.entries("adult")] == [None, 1]
    with pytest.raises(BadInputError, match="share one budget"):
        ledger.register(make_registration(span=2, digest="d" * 64, unit="person"), epsilon=3.0, delta=1e-5)


def test_changing_the_cap_is_a_step_of_its_own_and_is_counted(ledger: Ledger) -> None:
    plan = make_plan(noise=1.0)
    with pytest.raises(BudgetRefusedError), spend(ledger, plan):
        pass
    ledger.set_cap("adult", epsilon=8.0, delta=1e-5)
    run(ledger, plan)
    ledger.set_cap("adult", epsilon=8.0, delta=1e-5)
    assert ledger.status()[0].cap_changes == 1
    ledger.set_cap("adult", epsilon=0.5, delta=1e-5)
    (status,) = ledger.status()
    assert (status.cap_epsilon, status.cap_changes, status.remaining_epsilon) == (0.5, 2, 0.0)
    with pytest.raises(BudgetRefusedError), spend(ledger, make_plan(noise=1000.0), run_id="later"):
        pass
    for epsilon, delta in ((0.0, 1e-5), (math.inf, 1e-5), (math.nan, 1e-5), (1.0, 0.0), (1.0, 1.0)):
        with pytest.raises(BadInputError):
            ledger.set_cap("adult", epsilon=epsilon, delta=delta)
    with pytest.raises(BadInputError):
        ledger.set_cap("nosuch", epsilon=1.0, delta=1e-5)


def abandon(ledger: Ledger, plan: MechanismPlan, *, start: bool = False, **changes: Any) -> Grant:
    """What a process that dies leaves behind: a grant that nobody releases."""
    request: dict[str, Any] = {"dataset": "adult", "span": None, "data_digest": DIGEST, "split": "train"}
    grant = reserve(ledger._engine, Request(**{**request, "run_id": "run-1", "node": "trainer", **changes}, plan=plan))
    if start:
        grant.start()
    return grant


def test_a_second_attempt_goes_on_with_what_was_only_reserved(ledger: Ledger) -> None:
    plan = make_plan()
    first = abandon(ledger, plan)
    cost = spent(ledger)
    assert cost > 0
    second = abandon(ledger, plan)
    assert (second.entry_id, second.attempt, spent(ledger)) == (first.entry_id, 1, cost)
    with pytest.raises(BudgetRefusedError, match="took it over"):
        first.start()
    first.release()
    assert states(ledger) == [State.RESERVED]
    second.start()
    second.commit(plan.event)
    assert states(ledger) == [State.COMMITTED]


def test_reusing_a_reservation_does_not_count_it_twice(ledger: Ledger) -> None:
    plan = make_plan(noise=1.8)
    assert ledger.forecast(plan, dataset="adult", span=None, split="train").runs_that_fit == 1
    abandon(ledger, plan)
    run(ledger, plan)
    assert states(ledger) == [State.COMMITTED]


@pytest.mark.parametrize("state", [State.RESERVED, State.STARTED, State.COMMITTED])
def test_whatever_did_not_expire_stands_in_the_way_of_the_next(ledger: Ledger, state: State) -> None:
    plan = make_plan(noise=1.8)
    grant = abandon(ledger, plan, start=state is not State.RESERVED)
    if state is State.COMMITTED:
        grant.commit(plan.event)
    assert states(ledger) == [state]
    assert spent(ledger) == ledger.entries("adult")[0].epsilon
    assert not ledger.forecast(plan, dataset="adult", span=None, split="train").fits
    with pytest.raises(BudgetRefusedError), spend(ledger, plan, run_id="next"):
        pass


@pytest.mark.parametrize("commit", [False, True])
def test_a_second_attempt_after_a_start_is_charged_anew(ledger: Ledger, commit: bool) -> None:
    plan = make_plan()
    first = abandon(ledger, plan, start=True)
    if commit:
        first.commit(plan.event)
    once = spent(ledger)
    second = run(ledger, plan)
    assert (second.attempt, second.entry_id != first.entry_id) == (2, True)
    assert spent(ledger) > once


@pytest.mark.parametrize("change", ["run_id", "node", "noise", "event"])
def test_another_run_node_or_plan_has_a_reservation_of_its_own(ledger: Ledger, change: str) -> None:
    abandon(ledger, make_plan())
    other = {
        "noise": make_plan(noise=11.0),
        "event": replace(make_plan(), event=gaussian_passes(noise_multiplier=10.0, epochs=2)),
    }.get(change, make_plan())
    names: dict[str, Any] = {change: "other"} if change in ("run_id", "node") else {}
    abandon(ledger, other, **names)
    assert states(ledger) == [State.RESERVED, State.RESERVED]


def test_expiring_what_a_dead_run_reserved(ledger: Ledger) -> None:
    grant = abandon(ledger, make_plan())
    abandon(ledger, make_plan(), run_id="alive")
    assert ledger.expire_reserved("run-1") == 1
    assert states(ledger) == [State.EXPIRED, State.RESERVED]
    with pytest.raises(BudgetRefusedError):
        grant.start()
    with pytest.raises(BadInputError):
        ledger.composition(grant.entry_id)
    assert ledger.status()[0].entries == {
        State.RESERVED: 1,
        State.STARTED: 0,
        State.COMMITTED: 0,
        State.EXPIRED: 1,
    }


def test_the_first_run_fixes_the_renyi_order_and_an_unstarted_one_does_not(ledger: Ledger) -> None:
    with spend(
        ledger, replace(make_plan(), event=poisson_gaussian(sampling_probability=0.3, noise_multiplier=4.0, steps=20))
    ):
        sampled = ledger.status()[0].filter_order
    run(ledger, make_plan(epochs=5))
    gaussian = ledger.status()[0].filter_order
    assert sampled != gaussian
    sparse = poisson_gaussian(sampling_probability=0.001, noise_multiplier=0.8, steps=100)
    run(ledger, replace(make_plan(), event=sparse), run_id="later")
    assert ledger.status()[0].filter_order == gaussian


def test_composition_counts_what_came_before(ledger: Ledger) -> None:
    grants = [run(ledger, make_plan(epochs=3), run_id=f"run-{number}") for number in range(3)]
    parts = [ledger.composition(grant.entry_id) for grant in grants]
    assert [part.entries_before for part in parts] == [0, 1, 2]
    assert [part.epsilon_before for part in parts[1:]] == [part.epsilon_after for part in parts[:-1]]
    assert parts[-1].epsilon_after == spent(ledger)


@pytest.mark.slow
@given(
    requests=st.lists(
        st.tuples(
            st.floats(min_value=1.0, max_value=30),
            st.integers(min_value=1, max_value=5),
            st.sampled_from(["expire", "start", "commit", "less", "more"]),
        ),
        max_size=8,
    )
)
@settings(max_examples=20, deadline=None)
def test_started_cost_never_falls_and_the_cap_is_never_passed(requests: list[tuple[float, int, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.open(f"sqlite:///{folder}/ledger.db", create=True)
        ledger.register(make_registration(), epsilon=3.0, delta=1e-5)
        for number, (noise, epochs, fate) in enumerate(requests):
            before, entries = spent(ledger), len(ledger.entries("adult"))
            try:
                with spend(ledger, make_plan(noise, epochs), run_id=f"run-{number}") as grant:
                    granted = spent(ledger)
                    assert before <= granted <= 3.0 or ledger.status()[0].overruns
                    if fate == "expire":
                        continue
                    grant.start()
                    if fate != "start":
                        factor = {"commit": epochs, "less": 1, "more": epochs + 1}[fate]
                        grant.commit(gaussian_passes(noise_multiplier=noise, epochs=factor))
            except BudgetRefusedError:
                assert len(ledger.entries("adult")) == entries
                assert spent(ledger) == before
                continue
            (status,) = ledger.status()
            assert status.spent_epsilon >= before
            assert status.spent_epsilon <= status.simple_epsilon + 1e-9
            assert (status.spent_epsilon == granted) == (fate != "more")


def test_a_corrupt_database_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"not a database, but long enough to have a header" * 100)
    for create in (False, True):
        with pytest.raises(LedgerError, match="not a database"):
            Ledger.open(f"sqlite:///{tmp_path}/ledger.db", create=create)


def damage(url: str, statement: str) -> None:
    connection = sqlite3.connect(sa.make_url(url).database or "")
    with connection:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "totals",
    [
        "'oops'",
        "'[1.0]'",
        "'null'",
        "replace(totals, ',[', ',[-')",
        "replace(totals, ',[', ',[1,')",
        "replace(totals, ',[', ',[NaN,')",
        """replace(totals, '"orders":1', '"orders":2')""",
    ],
)
def test_damaged_totals_stop_every_grant(ledger: Ledger, url: str, totals: str) -> None:
    run(ledger, make_plan())
    damage(url, f"UPDATE budgets SET totals = {totals}")
    with pytest.raises(LedgerError), spend(ledger, make_plan(), run_id="next"):
        pass
    with pytest.raises(LedgerError):
        ledger.status()


@pytest.mark.parametrize("rdp", ["'oops'", "'[1.0]'", "'null'", "replace(rdp, '[', '[-')", "replace(rdp, '0', '1')"])
def test_a_damaged_charge_is_never_added(ledger: Ledger, url: str, rdp: str) -> None:
    run(ledger, make_plan())
    damage(url, f"UPDATE charges SET rdp = {rdp}")
    for attempt in (
        lambda: ledger.entries("adult"),
        lambda: ledger.composition(1),
        lambda: run(ledger, make_plan(), run_id="next"),
    ):
        with pytest.raises(LedgerError, match="damaged"):
            attempt()


def test_a_ledger_of_another_format_is_refused(ledger: Ledger, url: str) -> None:
    damage(url, "UPDATE ledger_meta SET value = '99'")
    with pytest.raises(LedgerError, match="format 99"):
        Ledger.open(url)


def test_a_read_only_ledger_can_be_read_and_grants_nothing(ledger: Ledger, url: str) -> None:
    read_only = Ledger.open(url.replace("sqlite:///", "sqlite:///file:") + "?mode=ro&uri=true")
    assert read_only.status()[0].cap_epsilon == 3.0
    with pytest.raises(LedgerError, match="readonly"), spend(read_only, make_plan()):
        pass
    assert ledger.entries("adult") == []


def test_a_full_disk_refuses_before_the_run_and_keeps_a_started_entry(ledger: Ledger) -> None:
    plan = make_plan()
    grant = abandon(ledger, plan, start=True)
    run(ledger, plan, run_id="fills-a-page")

    def full(connection: Any, _record: Any) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count={pages}")

    sa.event.listen(ledger._engine, "connect", full)
    try:
        with pytest.raises(LedgerError, match="full"):
            for number in range(100):
                run(ledger, make_plan(noise=1000.0), run_id=f"run-{number}-" + "x" * 5000)
    finally:
        sa.event.remove(ledger._engine, "connect", full)
    assert ledger.entries("adult")[0].id == grant.entry_id
    assert ledger.entries("adult")[0].state is State.STARTED


def test_a_locked_ledger_grants_nothing(ledger: Ledger, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privacy_pipeline.ledger.storage.schema.WAIT_SECONDS", 0.2)
    impatient = Ledger.open(url)
    holder = sqlite3.connect(sa.make_url(url).database or "", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match="locked"), spend(impatient, make_plan()):
        pass
    assert impatient.status()[0].spent_epsilon == 0.0
    holder.execute("ROLLBACK")
    holder.close()
    assert ledger.entries("adult") == []


def open_as_nobody(folder: str, told: SimpleQueue[str]) -> None:
    """Root may write anywhere, so the attempt is made by someone else."""
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    try:
        Ledger.open(f"sqlite:///{folder}/sub/ledger.db", create=True)
    except PipelineError as error:
        told.put(error.message)
    else:
        told.put("opened")


def test_a_folder_that_cannot_be_written_is_a_clear_error(ledger: Ledger) -> None:
    told: SimpleQueue[str] = CLEAN.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        process = clean_process(open_as_nobody, folder, told)
        process.start()
        process.join(timeout=60)
        assert process.exitcode == 0
        message = told.get()
        assert message.startswith("ledger sqlite") and "Permission denied" in message
        os.chmod(folder, 0o755)


def test_a_password_is_never_shown() -> None:
    with pytest.raises(BadInputError, match="password") as caught:
        Ledger.open("postgresql://user:secret-word@127.0.0.1:1/db", create=True)
    assert "secret-word" not in caught.value.message + caught.value.fix


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "Not a name"},
        {"digest": "xyz"},
        {"span": -1},
        {"contribution_bound": 0},
        {"contribution_bound": 2},
        {"unit": ""},
        {"splits": {"eval": SplitCount(rows=1, units=1)}},
        {"splits": {"train": SplitCount(rows=10, units=9)}},
    ],
)
def test_registrations_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(BadInputError):
        replace(make_registration(), **changes)
    assert isinstance(make_registration(), Registration)


def test_reading_stored_values_needs_no_accounting_library(ledger: Ledger, url: str) -> None:
    run(ledger, make_plan())
    code = (
        "import sys; from privacy_pipeline.ledger.ledger import Ledger; "
        f"ledger = Ledger.open({url!r}); status = ledger.status(); ledger.entries('adult'); ledger.composition(1); "
        "assert status[0].spent_epsilon > 0; "
        "print([name for name in ('dp_accounting', 'tensorflow', 'numpy', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_killed_attempt_goes_on_under_its_charge(ledger: Ledger) -> None:
    plan = make_plan()
    killed = abandon(ledger, plan, start=True)
    spent = ledger.status()[0].spent_epsilon
    with spend(ledger, plan, continues=killed.resume_token) as grant:
        assert grant.continued and (grant.entry_id, grant.attempt) == (killed.entry_id, 1)
        grant.commit(plan.event)
    (entry,) = ledger.entries("adult")
    assert entry.state is State.COMMITTED
    assert ledger.status()[0].spent_epsilon == spent


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": "another"},
        {"node": "another"},
        {"plan": make_plan(noise=11.0)},
        {"token": "0" * 32},
        {"entry_id": 99},
        {"start": False},
        {"commit": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_not_the_very_same_attempt_is_charged_anew(ledger: Ledger, change: dict[str, Any]) -> None:
    plan = make_plan()
    killed = abandon(ledger, plan, start=change.pop("start", True))
    if change.pop("commit", False):
        killed.commit(plan.event)
    resume_token = replace(
        killed.resume_token, **{name: change.pop(name) for name in ("token", "entry_id") if name in change}
    )
    with spend(ledger, change.pop("plan", plan), continues=resume_token, **change) as grant:
        assert not grant.continued
        grant.start()
    counted = [e for e in ledger.entries("adult") if e.state in (State.STARTED, State.COMMITTED)]
    assert grant.entry_id in {e.id for e in counted}
    assert ledger.status()[0].spent_epsilon > min(e.epsilon for e in counted) or len(counted) == 1


def test_a_commit_whose_result_was_not_written_is_found_by_its_ticket_alone(ledger: Ledger) -> None:
    plan = make_plan()
    killed = abandon(ledger, plan, start=True)
    assert committed_by(ledger, plan, killed.resume_token) is None  # started, and not committed
    killed.commit(plan.event)
    assert committed_by(ledger, plan, killed.resume_token) == killed.entry_id
    assert committed_by(ledger, plan, replace(killed.resume_token, token="0" * 32)) is None
    assert committed_by(ledger, plan, replace(killed.resume_token, entry_id=99)) is None
    assert committed_by(ledger, make_plan(noise=11.0), killed.resume_token) is None
    for other in ({"run_id": "another"}, {"node": "another"}, {"data_digest": "e" * 64}):
        assert committed_by(ledger, plan, killed.resume_token, **other) is None
    assert len(ledger.entries("adult")) == 1


def test_a_tickets_secret_is_in_no_repr(ledger: Ledger) -> None:
    resume_token = abandon(ledger, make_plan()).resume_token
    assert resume_token.token and resume_token.token not in repr(resume_token)
