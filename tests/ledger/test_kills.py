"""SIGKILL between any two statements of reserve, train and commit, a full disk: never less than was spent."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from privacy_pipeline.ledger.audit.verify import verify
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import State
from privacy_pipeline.ledger.storage.schema import LedgerError
from privacy_pipeline.spans import union_digest
from tests.clean_fork import clean_process
from tests.ledger.charging.test_several_spans import data_of
from tests.ledger.conftest import DIGEST, UNITS, make_plan, make_registration

COUNTED = (State.STARTED, State.COMMITTED)
Run = Callable[[Ledger, str, Callable[[], Any]], None]


def run_once(ledger: Ledger, run_id: str, touch: Callable[[], Any]) -> None:
    """One run under the ledger; `touch` stands for the first read of data."""
    plan = make_plan(50.0)
    with ledger.spend(
        dataset="adult", span=None, data_digest=DIGEST, split="train", run_id=run_id, node="Trainer", plan=plan
    ) as grant:
        grant.start()
        touch()
        grant.commit(plan.event)


def over_spans(ledger: Ledger, run_id: str, touch: Callable[[], Any]) -> None:
    """One run over the spans 1 to 3, which have a budget each."""
    plan, spans = make_plan(50.0, unit="person", units=3 * UNITS), (1, 2, 3)
    digest = union_digest({span: data_of(span) for span in spans})
    with ledger.spend(
        dataset="adult", span=spans, data_digest=digest, split="train", run_id=run_id, node="Trainer", plan=plan
    ) as grant:
        grant.start()
        touch()
        grant.commit(plan.event)


def on_statement(ledger: Ledger, number: int, action: Callable[[], None]) -> list[str]:
    """Acts right before the statement of that number; begins and commits count as statements."""
    seen: list[str] = []

    def count(_connection: Any, *details: Any) -> None:
        seen.append(str(details[1]) if len(details) > 1 else "commit")
        if len(seen) == number:
            action()

    sa.event.listen(ledger._engine, "before_cursor_execute", count)
    sa.event.listen(ledger._engine, "commit", count)
    return seen


def die() -> None:
    """As the system's out-of-memory killer would have it."""
    os.kill(os.getpid(), signal.SIGKILL)


def touched(log: Path) -> None:
    """Stands for the first read of data."""
    with log.open("ab", buffering=0) as stream:
        stream.write(b"x")


def killed(url: str, run_id: str, at: int, log: Path, run: Run = run_once) -> None:
    """In a process of its own: one run that dies right before the statement of that number."""
    own = Ledger.open(url)
    on_statement(own, at, die)
    run(own, run_id, partial(touched, log))


def reads(path: Path) -> int:
    """How often data was touched."""
    return path.stat().st_size if path.exists() else 0


@pytest.mark.parametrize("kills", [None, pytest.param(300, marks=pytest.mark.slow)], ids=["each once", "300"])
def test_kills_between_any_two_statements(tmp_path: Path, kills: int | None) -> None:
    url, log = f"sqlite:///{tmp_path}/ledger/ledger.db", tmp_path / "reads"
    ledger = Ledger.open(url, create=True)
    ledger.register(make_registration(), epsilon=1000.0, delta=1e-5)

    touch = partial(touched, log)
    run_once(ledger, "first", touch)  # stores what equal runs share
    statements = on_statement(ledger, 0, die)
    run_once(ledger, "whole", touch)
    whole, chance = len(statements), random.Random(7)
    places = range(1, whole + 1)
    numbers = [*places, *chance.choices(places, k=(kills or whole) - whole)]
    chance.shuffle(numbers)
    assert set(numbers) == set(places)  # between any two
    died = 0
    for kill, at in enumerate(numbers):
        before = ledger.status("adult")[0].spent_epsilon
        child = clean_process(killed, url, f"run-{kill}", at, log)
        child.start()
        child.join(timeout=60)
        died += child.exitcode == -signal.SIGKILL
        status = ledger.status("adult")[0]
        assert sum(status.entries[state] for state in COUNTED) >= reads(log)
        assert status.spent_epsilon >= before
        if kill % 50 == 49:
            assert verify(ledger._engine, reprice=False).problems == []
    assert died == (kills or whole) > 10
    run_once(ledger, "afterwards", touch)
    assert reads(log) > (2 if kills is None else 100)  # some died after the first read of data
    assert verify(ledger._engine).problems == []


@pytest.mark.parametrize("each", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["a statement", "each once"])
def test_kills_of_a_run_over_several_spans_leave_no_budget_behind(tmp_path: Path, each: bool) -> None:
    """All budgets of the spans are charged before the first read, and by the same runs.

    Kills come between any two statements, or once a statement: the spans repeat them, with other numbers.
    """
    url, log = f"sqlite:///{tmp_path}/ledger/ledger.db", tmp_path / "reads"
    ledger = Ledger.open(url, create=True)
    for span in (1, 2, 3):
        registration = make_registration(span=span, digest=data_of(span), unit="person")
        ledger.register(registration, epsilon=1000.0, delta=1e-5, units=[f"person {span}"], disjoint=True)

    touch = partial(touched, log)
    over_spans(ledger, "first", touch)  # stores what equal runs share
    statements = on_statement(ledger, 0, die)
    over_spans(ledger, "whole", touch)
    last = {statement: number for number, statement in enumerate(statements, start=1)}
    numbers = [*range(1, len(statements) + 1)] if each else [*last.values()]
    random.Random(7).shuffle(numbers)
    for at in numbers:
        before = [status.spent_epsilon for status in ledger.status("adult")]
        child = clean_process(killed, url, f"run-{at}", at, log, over_spans)
        child.start()
        child.join(timeout=60)
        assert child.exitcode == -signal.SIGKILL
        budgets = ledger.status("adult")
        assert len(budgets) == 3 and len({tuple(status.entries.items()) for status in budgets}) == 1
        assert all(sum(status.entries[state] for state in COUNTED) >= reads(log) for status in budgets)
        assert all(status.spent_epsilon >= spent for status, spent in zip(budgets, before, strict=True))
        if at % 10 == 0:
            assert verify(ledger._engine, reprice=False).problems == []
    assert 2 < reads(log) < len(numbers)  # some died after the first read of data
    over_spans(ledger, "run-1", touch)  # goes on with what was reserved, or begins anew
    ledger.expire_reserved(f"run-{numbers[0]}")
    assert len({status.spent_epsilon for status in ledger.status("adult")}) == 1
    assert verify(ledger._engine).problems == []


def test_a_full_disk_grants_nothing_and_loses_nothing(tmp_path: Path) -> None:
    url, log = f"sqlite:///{tmp_path}/ledger/ledger.db", tmp_path / "reads"
    Ledger.open(url, create=True).register(make_registration(), epsilon=1000.0, delta=1e-5)
    room = {"pages": 0}
    ledger = Ledger.open(url)

    def limit(connection: Any, _record: Any) -> None:
        if room["pages"]:
            connection.execute(f"PRAGMA max_page_count={room['pages']}")

    sa.event.listen(ledger._engine, "connect", limit)

    touch = partial(touched, log)
    with ledger._engine.connect() as connection:
        room["pages"] = int(connection.exec_driver_sql("PRAGMA page_count").scalar() or 0) + 3
    refused = 0
    for number in range(40):
        try:
            run_once(ledger, f"run-{number}", touch)
        except LedgerError as error:
            assert "full" in error.message
            refused += 1
        status = ledger.status("adult")[0]
        assert sum(status.entries[state] for state in COUNTED) >= reads(log)
    assert 0 < refused < 40
    room["pages"] = 0
    run_once(ledger, "with room again", touch)
    assert verify(ledger._engine).problems == []


@pytest.mark.parametrize("at", ["2001-01-01T00:00:00+00:00", "2090-01-01T00:00:00+00:00"])
def test_a_clock_that_jumps_changes_no_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger/ledger.db", create=True)
    ledger.register(make_registration(), epsilon=1000.0, delta=1e-5)
    run_once(ledger, "first", lambda: None)
    once = ledger.status("adult")[0].spent_epsilon
    for module in ("storage.journal", "charging.entries"):
        monkeypatch.setattr(f"privacy_pipeline.ledger.{module}.now", lambda: at)
    run_once(ledger, "second", lambda: None)
    run_once(ledger, "second", lambda: None)  # fresh noise: charged anew
    status = ledger.status("adult")[0]
    assert status.entries[State.COMMITTED] == 3
    assert status.spent_epsilon > once
    assert verify(ledger._engine).problems == []
