"""A run over several spans: each budget that one of them belongs to is charged once, all of them together or none."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dp_accounting import dp_event
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_pipeline.accounting.events import canonical
from privacy_pipeline.accounting.plan import MechanismPlan
from privacy_pipeline.accounting.renyi import AccountingError
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.charging import entries, reservation
from privacy_pipeline.ledger.charging.grants import Grant, ResumeToken
from privacy_pipeline.ledger.charging.request import Request
from privacy_pipeline.ledger.charging.reservation import reserve
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import State
from privacy_pipeline.ledger.state.policy import Policy
from privacy_pipeline.ledger.state.registration import SplitCount
from privacy_pipeline.ledger.storage import schema
from privacy_pipeline.spans import Span, span_key, span_of, union_digest
from tests.ledger.conftest import UNITS, make_plan, make_registration

CAP, DELTA = 3.0, 1e-5
SHARED = "adult/train/person"


def data_of(span: Span) -> str:
    """Digest of the data of a span, or of several."""
    if isinstance(span, tuple):
        return union_digest({one: data_of(one) for one in span})
    return hashlib.sha256(f"span {span}".encode()).hexdigest()


def register(ledger: Ledger, span: int, *people: str, disjoint: bool = True, unit: str = "person", **more: Any) -> None:
    registration = make_registration(span=span, digest=data_of(span), unit=unit)
    units = {"train": people or (f"person {span}",), "eval": (f"evaluated {span}",)}
    known = {"units": units, "epsilon": CAP, "delta": DELTA} | more
    ledger.register(registration, disjoint=disjoint, **known)


def five_spans(url: str) -> Ledger:
    """Spans 1 to 5: the first has the budget that spans share, each other one its own."""
    made = Ledger.open(url, create=True)
    for span in range(1, 6):
        register(made, span)
    return made


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return five_spans(f"sqlite:///{tmp_path}/ledger.db")


def plan_for(span: Span, noise: float = 2.3, **more: Any) -> MechanismPlan:
    return make_plan(noise, unit="person", units=UNITS * (len(span) if isinstance(span, tuple) else 1), **more)


def spend(ledger: Ledger, span: Span, plan: MechanismPlan | None = None, **more: Any) -> AbstractContextManager[Grant]:
    request: dict[str, Any] = {"dataset": "adult", "span": span, "data_digest": data_of(span), "split": "train"}
    request |= {"run_id": f"run {span}", "node": "Trainer", "plan": plan or plan_for(span)}
    return ledger.spend(**{**request, **more})


def abandon(ledger: Ledger, span: Span, *, start: bool = False) -> Grant:
    """What a process that dies leaves behind: a grant that nobody releases."""
    plan, digest = plan_for(span), data_of(span)
    asked = Request(
        dataset="adult", span=span, data_digest=digest, split="train", run_id=f"run {span}", node="Trainer", plan=plan
    )
    grant = reserve(ledger._engine, asked)
    if start:
        grant.start()
    return grant


def train(ledger: Ledger, span: Span, plan: MechanismPlan | None = None, **more: Any) -> Grant:
    plan = plan or plan_for(span)
    with spend(ledger, span, plan, **more) as grant:
        grant.start()
        grant.commit(plan.event)
    return grant


def key(span: int) -> str:
    return SHARED if span == 1 else f"{SHARED}/span-{span}"


def charged(ledger: Ledger) -> dict[str, int]:
    """Counted entries of each budget that has any."""
    counts = {
        one.budget: sum(n for state, n in one.entries.items() if state is not State.EXPIRED)
        for one in ledger.status("adult")
    }
    return {budget: count for budget, count in counts.items() if count}


def stored(ledger: Ledger) -> list[tuple[Any, ...]]:
    """All of the journal, of the budgets and of the entries, as it lies on disk."""
    with ledger._engine.connect() as connection:
        tables = (schema.journal, schema.budgets, schema.entries)
        return [
            tuple(row) for table in tables for row in connection.execute(sa.select(table).order_by(*table.primary_key))
        ]


def test_rolling_windows(fresh: str) -> None:
    """On SQLite and on PostgreSQL."""
    ledger = five_spans(fresh)
    first = train(ledger, (1, 2))
    assert charged(ledger) == {key(1): 1, key(2): 1}
    train(ledger, (2, 3))
    assert charged(ledger) == {key(1): 1, key(2): 2, key(3): 1}
    spent = {one.budget: one.spent_epsilon for one in ledger.status("adult")}
    alone = ledger.entries("adult")[0].epsilon
    assert spent[key(1)] == spent[key(3)] == pytest.approx(alone)
    assert alone < spent[key(2)] <= CAP
    before = stored(ledger)
    with pytest.raises(BudgetRefusedError) as caught:
        train(ledger, (2, 4))
    assert f"budget {key(2)}: counted against the cap" in caught.value.message and "remain" in caught.value.message
    assert key(4) not in caught.value.message and "none of them was charged" in caught.value.message
    assert stored(ledger) == before
    train(ledger, (4, 5))
    assert charged(ledger) == {key(1): 1, key(2): 2, key(3): 1, key(4): 1, key(5): 1}
    assert [len(first.entry_ids), len(first.receipts)] == [2, 2]
    assert ledger.verify(receipts=first.receipts).ok


def test_each_budget_pays_the_whole_event_and_its_entries_say_what_was_read(ledger: Ledger) -> None:
    grant = train(ledger, (2, 3, 5))
    found = ledger.entries("adult")
    assert [entry.budget for entry in found] == [key(2), key(3), key(5)]
    assert [entry.id for entry in found] == list(grant.entry_ids) and grant.entry_id == found[0].id
    for entry in found:
        assert (entry.span, entry.attempt, entry.state) == ((2, 3, 5), 1, State.COMMITTED)
        assert entry.event == found[0].event and entry.epsilon == found[0].epsilon > 0
        composition = ledger.composition(entry.id)
        assert (composition.budget, composition.entries_before) == (entry.budget, 0)
    assert [ledger.composition(number).journal_seq for number in grant.entry_ids] == [r.seq for r in grant.receipts]


def test_spans_that_share_a_budget_charge_it_once(ledger: Ledger) -> None:
    register(ledger, 6, disjoint=False)
    register(ledger, 7, disjoint=False)
    train(ledger, (1, 6, 7))
    assert charged(ledger) == {key(1): 1}
    train(ledger, (2, 6, 7))
    assert charged(ledger) == {key(1): 2, key(2): 1}
    assert ledger.verify().ok


def test_the_eval_split_has_one_budget(ledger: Ledger) -> None:
    policy = Policy(dataset="adult", epsilon=CAP, delta=DELTA, unit="person", shares={"train": 1.0}, eval_epsilon=2.0)
    ledger.apply_policy(policy)
    plan = make_plan(6.0, unit="person", units=400)
    train(ledger, (2, 3), plan, split="eval", purpose="evaluate")
    assert charged(ledger) == {"adult/eval/person": 1}
    ledger.apply_policy(policy.model_copy(update={"eval_epsilon": None}))
    with pytest.raises(BudgetRefusedError, match="is closed"):
        train(ledger, (2, 3), plan, split="eval", purpose="evaluate")


def test_the_number_of_units_is_that_of_all_spans(ledger: Ledger) -> None:
    for units in (UNITS, 3 * UNITS):
        with pytest.raises(BudgetRefusedError, match="number of units in the split 2000"):
            train(ledger, (2, 3), make_plan(4.0, unit="person", units=units))
    together = ledger.registration("adult", (2, 3))
    assert together is not None and together.span == (2, 3) and together.name == "adult (spans 2, 3)"
    assert {name: (count.rows, count.units) for name, count in together.splits.items()} == {
        "train": (2 * UNITS, 2 * UNITS),
        "eval": (400, 400),
    }


@pytest.mark.parametrize(
    ("spans", "why"),
    [
        ((3, 2), "in ascending order"),
        ((2, 2), "different numbers"),
        ((2,), "two or more"),
        ((), "two or more"),
        ((-1, 2), "two or more different numbers"),
        (tuple(range(100, 130, 2)), "at most 32 characters"),
        ((2, 9), r"adult \(span 9\) is not registered"),
    ],
)
def test_spans_that_cannot_be_read(ledger: Ledger, spans: tuple[int, ...], why: str) -> None:
    before = stored(ledger)
    with pytest.raises((BadInputError, BudgetRefusedError), match=why):
        train(ledger, spans, plan_for((2, 3)))
    with pytest.raises((BadInputError, BudgetRefusedError), match=why):
        ledger.forecast(plan_for((2, 3)), dataset="adult", span=spans, split="train")
    assert stored(ledger) == before


def test_units_that_are_not_proven_apart_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/other.db", create=True)
    register(ledger, 1, disjoint=False, units=["ann", "bob"])
    register(ledger, 2, disjoint=False, units=["cid", " BOB"])
    register(ledger, 3, "eve", disjoint=False)
    register(ledger, 4, disjoint=False, units=None)
    for spans, why in (((1, 2), "without stating which"), ((1, 2, 3), "without stating"), ((3, 4), "without digests")):
        with pytest.raises(BudgetRefusedError, match=why):
            train(ledger, spans)
    with monkeypatch.context() as lost:  # as a version before this did, which made another one
        lost.setattr(Ledger, "digest_secret", lambda ledger: b"2" * 32)
        register(ledger, 5, "fay", disjoint=False)
    with pytest.raises(BudgetRefusedError, match="different secrets"):
        train(ledger, (3, 5))
    assert charged(ledger) == {}
    train(ledger, (1, 3))
    assert charged(ledger) == {key(1): 1}


def with_people(ledger: Ledger, span: int, train: set[str], evaluation: set[str]) -> None:
    """A span whose numbers are those of its people; it shares the budget of the others."""
    splits = {"train": SplitCount(rows=2 * len(train), units=len(train))}
    splits["eval"] = SplitCount(rows=len(evaluation), units=len(evaluation))
    registration = replace(make_registration(span=span, digest=data_of(span), unit="person"), splits=splits)
    ledger.register(registration, epsilon=CAP, delta=DELTA, units={"train": train, "eval": evaluation})


PEOPLE = st.tuples(
    st.sets(st.sampled_from("abcdef"), min_size=1, max_size=4), st.sets(st.sampled_from("efgh"), max_size=2)
).filter(lambda sides: not sides[0] & sides[1])


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(PEOPLE, min_size=2, max_size=4))
def test_a_unit_of_two_spans_is_one_unit(people: list[tuple[set[str], set[str]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.open(f"sqlite:///{folder}/ledger.db", create=True)
        for span, (train_people, eval_people) in enumerate(people):
            with_people(ledger, span, train_people, eval_people)
        trained, evaluated = (set().union(*side) for side in zip(*people, strict=True))
        spans = tuple(range(len(people)))
        if trained & evaluated:
            with pytest.raises(BudgetRefusedError, match="units are in split"):
                ledger.registration("adult", spans)
            return
        together = ledger.registration("adult", spans)
        assert together is not None
        assert (together.splits["train"].units, together.splits["eval"].units) == (len(trained), len(evaluated))
        assert together.splits["train"].rows == 2 * sum(len(side) for side, _ in people)
        plan = make_plan(unit="person", units=len(trained))
        with spend(ledger, spans, plan) as grant:
            assert len(grant.entry_ids) == 1  # they share a budget


def test_keys_that_may_be_one_persons_are_not_counted_by_their_digests(tmp_path: Path) -> None:
    other = Ledger.open(f"sqlite:///{tmp_path}/other.db", create=True)
    with_people(other, 1, {"ann", "Ann"}, {"dan"})
    with_people(other, 2, {"bob"}, {"eve"})
    with_people(other, 3, {"ann"}, {"fay"})
    together = other.registration("adult", (1, 2))  # apart: what was registered adds up
    assert together is not None and together.splits["train"].units == 3
    with pytest.raises(BudgetRefusedError, match="differ in case, blanks or leading zeros alone"):
        other.registration("adult", (1, 3))


def test_rows_of_several_spans_are_not_counted(tmp_path: Path) -> None:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/other.db", create=True)
    for span in (1, 2):
        register(ledger, span, unit="row", disjoint=False, units=None)
    with pytest.raises(BudgetRefusedError, match="nothing shows whether a row is in two"):
        train(ledger, (1, 2), make_plan(4.0, units=2 * UNITS))


def test_spans_of_other_columns_are_not_read_together(ledger: Ledger) -> None:
    registration = make_registration(span=6, digest=data_of(6), unit="person")
    other = replace(registration, columns=("age", "wage"))
    ledger.register(other, epsilon=CAP, delta=DELTA, units=["person 6"], disjoint=True)
    with pytest.raises(BudgetRefusedError, match="span 2 is registered with columns age, label, span 6 with age, wage"):
        train(ledger, (2, 6))


def test_the_strictest_bound_of_the_spans_holds(ledger: Ledger) -> None:
    registration = replace(make_registration(span=6, digest=data_of(6), unit="person"), contribution_bound=5)
    ledger.register(registration, epsilon=CAP, delta=DELTA, units=["person 6"], disjoint=True)
    train(ledger, 6, replace(plan_for(6), contribution_bound=5))
    with pytest.raises(BudgetRefusedError, match="at most 1 rows of a unit"):
        train(ledger, (2, 6), replace(plan_for((2, 6)), contribution_bound=5))


def test_each_span_has_to_be_what_was_registered(ledger: Ledger) -> None:
    wrong = union_digest({2: data_of(2), 3: data_of(4)})
    for digest in (wrong, data_of(2), union_digest({3: data_of(2), 2: data_of(3)})):
        with pytest.raises(BudgetRefusedError, match=r"not what was registered|is registered as"):
            train(ledger, (2, 3), data_digest=digest)
    assert charged(ledger) == {}


def test_several_spans_are_not_registered_as_one(ledger: Ledger) -> None:
    together = ledger.registration("adult", (2, 3))
    assert together is not None
    with pytest.raises(BadInputError, match="one by one"):
        ledger.register(together, epsilon=CAP, delta=DELTA)


def test_what_was_never_started_comes_back_from_all(ledger: Ledger) -> None:
    with spend(ledger, (2, 3)):
        assert charged(ledger) == {key(2): 1, key(3): 1}
    assert charged(ledger) == {} and {one.spent_epsilon for one in ledger.status("adult")} == {0.0}
    abandon(ledger, (2, 3))
    assert ledger.expire_reserved("run (2, 3)") == 2
    assert charged(ledger) == {}
    assert ledger.verify().ok


def test_a_dead_reservation_is_taken_over_as_a_whole(ledger: Ledger) -> None:
    dead = abandon(ledger, (2, 3))
    with spend(ledger, (2, 3)) as grant:
        assert (grant.entry_ids, grant.attempt) == (dead.entry_ids, 1)
        with pytest.raises(BudgetRefusedError, match="no longer reserved"):
            dead.start()
        grant.start()
        with pytest.raises(BudgetRefusedError, match="no longer reserved"):
            grant.start()
    assert charged(ledger) == {key(2): 1, key(3): 1}
    again = train(ledger, (2, 3))  # fresh noise
    assert again.attempt == 2 and set(again.entry_ids).isdisjoint(grant.entry_ids)
    assert charged(ledger) == {key(2): 2, key(3): 2}
    assert ledger.verify().ok


def test_a_started_run_goes_on_under_all_of_its_charges(ledger: Ledger) -> None:
    killed = abandon(ledger, (2, 3), start=True)
    with spend(ledger, (2, 3), continues=killed.resume_token) as grant:
        assert grant.continued and grant.entry_ids == killed.entry_ids
        grant.commit(plan_for((2, 3)).event)
    assert len(grant.receipts) == 2 and charged(ledger) == {key(2): 1, key(3): 1}
    assert ledger.settled(grant.entry_ids) == set(grant.entry_ids)
    assert ledger.verify(receipts=grant.receipts).ok


@pytest.mark.parametrize(
    "change",
    [
        {"span": (2, 4), "data_digest": data_of((2, 4))},
        {"span": 2, "data_digest": data_of(2), "plan": plan_for(2)},
        {"run_id": "another"},
        {"plan": plan_for((2, 3), noise=2.5)},
        {"continues": ResumeToken(entry_id=1, token="stolen")},
        {"continues": "another entry"},
    ],
)
def test_a_ticket_is_good_for_the_very_same_run_alone(ledger: Ledger, change: dict[str, Any]) -> None:
    killed = abandon(ledger, (2, 3), start=True)
    if change.get("continues") == "another entry":
        change = {"continues": ResumeToken(entry_id=99, token=killed.resume_token.token)}
    asked = {"span": (2, 3), "continues": killed.resume_token, "run_id": "run (2, 3)", **change}
    with spend(ledger, **asked) as grant:
        assert not grant.continued and set(grant.entry_ids).isdisjoint(killed.entry_ids)


def test_an_overrun_is_charged_to_all(ledger: Ledger) -> None:
    with spend(ledger, (2, 3)) as grant:
        grant.start()
        grant.commit(plan_for((2, 3), epochs=2).event)
    assert [(one.overruns, one.passed) for one in ledger.status("adult")][1:3] == [(1, False)] * 2
    with spend(ledger, (4, 5)) as grant:
        grant.start()
        with pytest.raises(AccountingError):
            grant.commit(dp_event.UnsupportedDpEvent())
    assert [one.passed for one in ledger.status("adult")] == [False, False, False, True, True]
    assert ledger.verify().ok


def test_shares_and_persons_hold_at_each_budget(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy(dataset="adult", epsilon=CAP, delta=DELTA, unit="person", shares={"train": 0.5}, may_spend=["ann"])
    ledger.apply_policy(policy)
    with pytest.raises(BudgetRefusedError, match="may not spend"):
        train(ledger, (2, 3))
    monkeypatch.setenv("PRIVACY_PIPELINE_USER", "ann")
    train(ledger, 3, plan_for(3, noise=2.5))
    with pytest.raises(BudgetRefusedError, match=f"budget {key(3)}.*purpose 'train' may use 50%"):
        train(ledger, (2, 3), plan_for((2, 3), noise=2.5))
    assert charged(ledger) == {key(3): 1}


def test_a_forecast_tells_of_the_budget_with_the_least_room(ledger: Ledger) -> None:
    train(ledger, 3)
    where: dict[str, Any] = {"dataset": "adult", "split": "train"}
    said = ledger.forecast(plan_for((2, 3)), span=(2, 3), **where)
    alone = ledger.forecast(plan_for(3), span=3, **where)
    assert (said.budget, said.runs_that_fit, said.epsilon_before) == (key(3), alone.runs_that_fit, alone.epsilon_before)
    assert [other.budget for other in said.others] == [key(2)] and said.others[0].runs_that_fit > said.runs_that_fit
    while said.fits:
        train(ledger, 3)
        said = ledger.forecast(plan_for((2, 3)), span=(2, 3), **where)
    assert said.budget == key(3) and said.others[0].fits
    with pytest.raises(BudgetRefusedError):
        train(ledger, (2, 3))
    before = [("train", plan_for((4, 5)))] * said.others[0].runs_that_fit
    assert not ledger.forecast(plan_for((4, 5)), span=(4, 5), before=before, **where).fits


def drop_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a ledger would that forgot to charge one of the spans."""
    whole = reservation.paying_budgets
    monkeypatch.setattr(
        reservation, "paying_budgets", lambda *a, **k: (lambda found: (found[0], found[1][:1]))(whole(*a, **k))
    )


def start_half(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = entries.start
    monkeypatch.setattr(entries, "start", lambda writer, row: None if row["id"] == 2 else whole(writer, row))


def commit_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the charges are committed with what ran, the other half with what was planned."""
    whole = entries.commit
    monkeypatch.setattr(
        entries,
        "commit",
        lambda writer, row, executed, **more: whole(
            writer, row, row["planned"] if row["id"] == 2 else executed, **more
        ),
    )


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (drop_a_budget, "do not charge each budget of spans 2-3 once"),
        (start_half, "not in one state or not the same charge"),
        (commit_half, "not in one state or not the same charge"),
    ],
)
def test_a_charge_that_was_left_out_is_found(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, broken: Callable[[pytest.MonkeyPatch], None], said: str
) -> None:
    broken(monkeypatch)
    with spend(ledger, (2, 3)) as grant:
        grant.start()
        if broken is not start_half:
            grant.commit(plan_for((2, 3), epochs=2).event)
    problems = ledger.verify().problems
    assert any(said in problem for problem in problems), problems


def test_an_edited_registration_grants_nothing(ledger: Ledger) -> None:
    with sa.create_engine(str(ledger._engine.url)).begin() as connection:
        connection.execute(
            sa.text("UPDATE registrations SET splits = :splits WHERE span_key = '3'"),
            {"splits": json.dumps({"train": [5000, 5000], "eval": [200, 200]})},
        )
    with pytest.raises(Exception, match="changed by somebody other than the ledger"):
        train(ledger, (2, 3), make_plan(4.0, unit="person", units=6000))


def test_a_run_over_one_span_is_written_as_ever(ledger: Ledger) -> None:
    """Ledgers, and tickets of runs that were killed, of before there were runs over several spans stay good."""
    plan = plan_for(2)
    train(ledger, 2, plan)
    with sqlite3.connect(str(ledger._engine.url.database)) as connection:
        connection.row_factory = sqlite3.Row
        (entry,) = [dict(row) for row in connection.execute("SELECT * FROM entries")]
        bodies = [json.loads(row["body"]) for row in connection.execute("SELECT * FROM journal ORDER BY seq")][-3:]
    text = f"{plan.digest()}\n{canonical(plan.event)}"
    assert entry["plan_key"] == hashlib.sha256(text.encode()).hexdigest()
    assert (entry["span_key"], entry["data_digest"]) == ("2", data_of(2))
    assert [sorted(body) for body in bodies] == [
        ["entry", "order"],
        ["entry", "principal", "salt"],
        ["entry", "executed", "overrun", "principal", "salt"],
    ]
    assert bodies[0]["entry"] == {name: entry[name] for name in entries.FIXED}


@given(st.sets(st.integers(0, 40), min_size=2, max_size=8))
def test_the_name_of_several_spans_tells_them(spans: set[int]) -> None:
    several = tuple(sorted(spans))
    assert span_of(span_key(several)) == several
    assert not span_key(several).isdigit()


def test_the_name_of_one_span_is_its_number() -> None:
    assert [span_key(span) for span in (None, 0, 202401, (1, 2, 3, 7), (1, 3))] == ["", "0", "202401", "1-3,7", "1,3"]
    assert [span_of(name) for name in ("", "0", "202401")] == [None, 0, 202401]
    assert len(span_key(tuple(range(202401, 202413)))) <= 32
